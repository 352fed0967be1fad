// What lies around the network: from pixels to its input, and from its logits to the picture's own size. What is done is what
// onnx.json says; how it is computed follows gps-seg to the bit where bytes are concerned, and to float32 elsewhere.

const PRECISION = 22; // bits behind the point in which Pillow keeps its weights

// A picture as the browser gives it, RGBA -> RGB; alpha is dropped, as gps-seg drops it.
export function rgb(pixels) {
  const found = new Uint8Array((pixels.length / 4) * 3);
  for (let from = 0, to = 0; from < pixels.length; from += 4) {
    found[to++] = pixels[from];
    found[to++] = pixels[from + 1];
    found[to++] = pixels[from + 2];
  }
  return found;
}

// Size of a picture inside the input square.
export function contentSize(height, width, picture) {
  const size = picture.input_size;
  if (picture.resize === "squash") return [size, size];
  const scale = size / Math.max(height, width);
  return [height, width].map((side) => Math.max(1, Math.floor(side * scale + 0.5)));
}

// RGB bytes at another size, bilinear with antialiasing. Source: Pillow, src/libImaging/Resample.c: along rows, then along
// columns, weights as whole numbers, bytes in between; so the result is Pillow's to the bit.
export function resized(pixels, height, width, toHeight, toWidth) {
  const rows = toWidth === width ? pixels
    : along(pixels, { length: width, step: 3, lines: height, stride: 3 * width }, toWidth, { step: 3, stride: 3 * toWidth });
  return toHeight === height ? rows
    : along(rows, { length: height, step: 3 * toWidth, lines: toWidth, stride: 3 }, toHeight, { step: 3 * toWidth, stride: 3 });
}

// One axis of it. length, step: of the axis; lines, stride: of the other; step and stride of the result are in into.
function along(pixels, axis, length, into) {
  const found = new Uint8Array(axis.lines * length * 3);
  const taps = weights(axis.length, length);
  for (let line = 0; line < axis.lines; line++) {
    for (let at = 0; at < length; at++) {
      const { first, parts } = taps[at];
      for (let channel = 0; channel < 3; channel++) {
        let sum = 1 << (PRECISION - 1);
        let from = line * axis.stride + first * axis.step + channel;
        for (let tap = 0; tap < parts.length; tap++, from += axis.step) sum += pixels[from] * parts[tap];
        found[line * into.stride + at * into.step + channel] = Math.min(255, sum >> PRECISION);
      }
    }
  }
  return found;
}

function weights(from, to) {
  const scale = from / to, reach = Math.max(1, scale);
  return Array.from({ length: to }, (_, at) => {
    const center = (at + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const last = Math.min(from, Math.trunc(center + reach + 0.5));
    const shares = Array.from({ length: last - first }, (_, tap) =>
      Math.max(0, 1 - Math.abs((tap + first - center + 0.5) * (1 / reach))));
    const sum = shares.reduce((one, other) => one + other, 0);
    return { first, parts: Int32Array.from(shares, (share) => Math.trunc(0.5 + (share / sum) * 2 ** PRECISION)) };
  });
}

// RGB bytes of the content -> the network's input, float32 (3, S, S), zeros to the right and below.
export function normalised(pixels, height, width, picture) {
  const size = picture.input_size, found = new Float32Array(3 * size * size), float = Math.fround;
  const [darkest, factor] = picture.stretch ? stretched(pixels) : [0, 1];
  for (let channel = 0; channel < 3; channel++) {
    const mean = float(picture.mean[channel]), std = float(picture.std[channel]);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const value = float((pixels[(row * width + column) * 3 + channel] - darkest) * factor);
        found[(channel * size + row) * size + column] = float(value - mean) / std;
      }
    }
  }
  return found;
}

function stretched(pixels) {
  let darkest = 255, brightest = 0;
  for (const value of pixels) {
    if (value < darkest) darkest = value;
    if (value > brightest) brightest = value;
  }
  return [darkest, Math.fround(255 / Math.max(brightest - darkest, 1))];
}

// The upper left (height, width) of a map with rows of `stride`, at another size: bilinear, half-pixel centres, no antialiasing.
export function enlarged(map, stride, height, width, toHeight, toWidth) {
  const found = new Float32Array(toHeight * toWidth);
  const rows = neighbours(height, toHeight), columns = neighbours(width, toWidth);
  for (let row = 0, to = 0; row < toHeight; row++) {
    const [above, below, down] = rows[row];
    for (let column = 0; column < toWidth; column++) {
      const [left, right, across] = columns[column];
      const upper = map[above * stride + left] * (1 - across) + map[above * stride + right] * across;
      const lower = map[below * stride + left] * (1 - across) + map[below * stride + right] * across;
      found[to++] = upper * (1 - down) + lower * down;
    }
  }
  return found;
}

function neighbours(from, to) {
  return Array.from({ length: to }, (_, at) => {
    const place = Math.max(0, (at + 0.5) * (from / to) - 0.5), first = Math.min(Math.floor(place), from - 1);
    return [first, Math.min(first + 1, from - 1), place - first];
  });
}

// Channels of (S, S) with the content turned over, the padding left where it is; its own inverse.
function mirrored(maps, size, [height, width], [upsideDown, leftRight]) {
  const turned = maps.slice();
  for (let start = 0; start < maps.length; start += size * size) {
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const from = (upsideDown ? height - 1 - row : row) * size + (leftRight ? width - 1 - column : column);
        turned[start + row * size + column] = maps[start + from];
      }
    }
  }
  return turned;
}

// RGB bytes (H, W, 3) -> logits (H, W) and quality. run: input -> {logits, side, quality}; the logits are (side, side).
export async function answered(pixels, height, width, about, run) {
  const picture = about.picture, size = picture.input_size, content = contentSize(height, width, picture);
  const image = normalised(resized(pixels, height, width, ...content), ...content, picture);
  const views = about.flips ? [[false, false], [false, true], [true, false], [true, true]] : [[false, false]];
  const mean = new Float32Array(size * size);
  let quality = 0;
  for (const view of views) {
    const found = await run(mirrored(image, size, content, view));
    const square = enlarged(found.logits, found.side, found.side, found.side, size, size);
    mirrored(square, size, content, view).forEach((value, at) => { mean[at] += value / views.length; });
    quality += found.quality / views.length;
  }
  return { logits: enlarged(mean, size, ...content, height, width), quality };
}

export const sigmoid = (value) => 1 / (1 + Math.exp(-value));

// From logits and quality to what is shown. mask: bytes 0 and 1; largest: of the probabilities, calibrated where that is known.
export function judged(logits, quality, about) {
  const refused = about.has_quality && about.presence !== null && quality < about.presence;
  const cut = Math.log(about.threshold / (1 - about.threshold));
  const mask = refused ? new Uint8Array(logits.length) : Uint8Array.from(logits, (value) => value > cut);
  const highest = logits.reduce((one, other) => Math.max(one, other), -Infinity);
  const temperature = about.calibration === null ? 1 : about.calibration.temperature;
  return { mask, refused, part: mask.reduce((one, other) => one + other, 0) / mask.length, largest: sigmoid(highest / temperature) };
}
