// Makes objects with texts and lists, and buffers, and forgets half of them now and then. Argument 1: rounds.
'use strict';

let kept = [];
for (let nth = 0; nth < Number(process.argv[2]); nth++) {
  const part = [];
  for (let key = 0; key < 20000; key++) part.push({ key, text: 'x' + key, list: [key, key + 1] });
  kept.push(part, Buffer.alloc(1 << 20, nth));
  if (nth % 10 === 9) kept = kept.slice(kept.length / 2);
}
console.log(kept.length);
