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
    const image = document.createElement("img");
    image.src = picture.source;
    image.alt = picture.alt;
    image.loading = "lazy";
    const link = document.createElement("a");
    link.href = picture.source;
    link.target = "_blank";
    link.rel = "noopener";
    link.append(image);
    const caption = document.createElement("figcaption");
    caption.textContent = picture.caption;
    const figure = document.createElement("figure");
    figure.append(link, caption);
    return figure;
  }));
}
