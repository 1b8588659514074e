"use strict";
/* unpack.js: bytes as chat/walk.py packs them into a file (zlib, as_text), and weights (planes). */

// The bytes that an element of the file holds.
async function unpacked({ textContent, dataset }) {
  const packed = new Blob([bytesOf(textContent).subarray(0, +dataset.size)]).stream();
  const plain = packed.pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(plain).arrayBuffer());
}

// Seven bits a letter; a letter of two bytes stands for an unsafe one and the letter behind it.
function bytesOf(text) {
  const unsafe = [0, 10, 13, 60], bytes = new Uint8Array(text.length * 2);
  let bits = 0, held = 0, length = 0;
  const add = value => {
    bits = (bits << 7 | value) & 0x7fff;
    held += 7;
    if (held < 8) return;
    held -= 8;
    bytes[length++] = bits >> held;
  };
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 128) { add(code); continue; }
    add(unsafe[code - 256 >> 7]);
    add(code & 127);
  }
  return bytes.subarray(0, length);
}

// float32 of four groups of bytes: exponents, signs with seven bits, and the other sixteen.
function joinPlanes(planes) {
  const n = planes.length / 4, bits = new Uint32Array(n);
  for (let i = 0; i < n; i++) {
    const sign = planes[n + i];
    bits[i] = (sign & 128) << 24 | planes[i] << 23 | (sign & 127) << 16
      | planes[2 * n + i] << 8 | planes[3 * n + i];
  }
  return new Float32Array(bits.buffer);
}
