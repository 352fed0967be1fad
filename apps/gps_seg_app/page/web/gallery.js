// Pictures with captions, in a grid: the results of a batch, or one picture under several models.

export function fillGallery(host, scene) {
  if (!host) return;
  let grid = host.querySelector(".gs-grid");
  if (!grid) {
    grid = document.createElement("div");
    grid.className = "gs-grid";
    host.append(grid);
  }
  grid.replaceChildren(...scene.pictures.map((picture) => {
    const caption = document.createElement("figcaption");
    caption.textContent = picture.caption;
    const figure = document.createElement("figure");
    if (!picture.source) {
      figure.className = "gs-unread";
      figure.append(caption);
      return figure;
    }
    const image = document.createElement("img");
    image.src = picture.source;
    image.alt = picture.alt;
    image.loading = "lazy";
    const link = document.createElement("a");
    link.href = picture.source;
    link.target = "_blank";
    link.rel = "noopener";
    link.append(image);
    figure.append(link, caption);
    return figure;
  }));
}
