// Differences between two texts, word by word: Myers' algorithm on tokens, cut off where the
// texts have little in common.  Pure: texts in, ranges out.

const TOKEN = /[\p{L}\p{N}_]+|\s+|[^\p{L}\p{N}_\s]/gu;
const MOST_TOKENS = 4000;
const MOST_EDITS = 1500;

/** Words, runs of white space, and single signs. */
export function tokens(text) {
  return text.match(TOKEN) ?? [];
}

/**
 * Two lists of [text, isDifferent], one for each text; joined they are the texts.
 * White space alone is never marked.
 */
export function differences(left, right) {
  const a = tokens(left);
  const b = tokens(right);
  const common = matches(a, b);
  const inLeft = new Set(common.map(([place]) => place));
  const inRight = new Set(common.map(([, place]) => place));
  return [grouped(a, inLeft), grouped(b, inRight)];
}

/** Pairs of places with equal tokens, a longest common subsequence. */
function matches(a, b) {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start
    && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const found = [];
  for (let place = 0; place < start; place += 1) found.push([place, place]);
  const inner = myers(a.slice(start, a.length - end), b.slice(start, b.length - end));
  for (const [x, y] of inner) found.push([x + start, y + start]);
  for (let back = end; back > 0; back -= 1) found.push([a.length - back, b.length - back]);
  return found;
}

/** Myers, "An O(ND) difference algorithm" (1986), with the paths kept for walking back. */
function myers(a, b) {
  if (!a.length || !b.length || a.length + b.length > MOST_TOKENS) return [];
  const most = Math.min(a.length + b.length, MOST_EDITS);
  let furthest = new Map([[1, 0]]);
  const trail = [];
  for (let edits = 0; edits <= most; edits += 1) {
    trail.push(new Map(furthest));
    for (let k = -edits; k <= edits; k += 2) {
      const down = k === -edits
        || (k !== edits && (furthest.get(k - 1) ?? -1) < (furthest.get(k + 1) ?? -1));
      let x = down ? furthest.get(k + 1) ?? 0 : (furthest.get(k - 1) ?? 0) + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x += 1;
      furthest.set(k, x);
      if (x >= a.length && x - k >= b.length) return walkedBack(a, b, trail);
    }
  }
  return [];
}

function walkedBack(a, b, trail) {
  const found = [];
  let x = a.length;
  let y = b.length;
  for (let edits = trail.length - 1; edits >= 0; edits -= 1) {
    const furthest = trail[edits];
    const k = x - y;
    const down = k === -edits
      || (k !== edits && (furthest.get(k - 1) ?? -1) < (furthest.get(k + 1) ?? -1));
    const before = down ? k + 1 : k - 1;
    const beforeX = furthest.get(before) ?? 0;
    const beforeY = beforeX - before;
    while (x > beforeX && y > beforeY && x > 0 && y > 0) {
      x -= 1;
      y -= 1;
      found.push([x, y]);
    }
    if (edits > 0) [x, y] = [beforeX, beforeY];
  }
  return found.reverse();
}

function grouped(list, common) {
  const differs = list.map((token, place) => !common.has(place) && token.trim() !== "");
  const parts = [];
  list.forEach((token, place) => {
    // A blank between two marked words belongs to the mark; the end of a line does not.
    const joins = token.trim() === "" && !token.includes("\n") && differs[place - 1] && differs[place + 1];
    const marked = differs[place] || Boolean(joins);
    const last = parts.at(-1);
    if (last && last[1] === marked) last[0] += token;
    else parts.push([token, marked]);
  });
  return parts;
}
