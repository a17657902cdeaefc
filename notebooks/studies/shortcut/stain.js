// Tiles whose stain turns, by the study's own formula; what a classifier answers with channels ablated, and what that
// wins over random channels as strong: recorded tables, looked up. Nothing between two recorded values is made up.

const FLOOR = 1 / 255; // intensities below the darkest grey level that is not black have no optical density

// A stain, {vectors [2, 3], maxima [2], white}: what one unit of haematoxylin, of eosin and of the rest absorbs, 3 × RGB.
const basis = ({ vectors, maxima }) => {
  const [a, b] = [vectors.slice(0, 3), vectors.slice(3, 6)];
  const across = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const length = Math.hypot(...across);
  return [a.map((one) => one * maxima[0]), b.map((one) => one * maxima[1]), across.map((one) => one / length)];
};

const inverse = (rows) => {
  const at = (i, j) => rows[(i + 3) % 3][(j + 3) % 3];
  const minor = (i, j) => at(i + 1, j + 1) * at(i + 2, j + 2) - at(i + 1, j + 2) * at(i + 2, j + 1);
  const determinant = [0, 1, 2].reduce((sum, j) => sum + rows[0][j] * minor(0, j), 0);
  return [0, 1, 2].map((i) => [0, 1, 2].map((j) => minor(j, i) / determinant));
};

const toward = (from, to, share) => from + share * (to - from);

// A stain between two: share 0 the one, 1 the other; beyond, the line goes on.
const blend = (one, other, share) => {
  const vectors = Array.from(one.vectors, (from, i) => Math.max(toward(from, other.vectors[i], share), 0));
  const lengths = [0, 3].map((at) => Math.hypot(...vectors.slice(at, at + 3)));
  return {
    vectors: vectors.map((value, i) => value / lengths[i < 3 ? 0 : 1]),
    maxima: Array.from(one.maxima, (from, i) => toward(from, other.maxima[i], share)),
    white: toward(one.white, other.white, share),
  };
};

const densities = (pixels, white) => Float64Array.from(pixels, (value) => Math.log(white / Math.max(value, FLOOR)));

// Pixels [n, 3] of these optical densities: the same shares of both stains, and the same rest, in the stain between.
const recoloured = (optical, own, other, share) => {
  const after = blend(own, other, share), [to, back] = [basis(after), inverse(basis(own))];
  const turn = [0, 1, 2].map((d) => [0, 1, 2].map((c) => [0, 1, 2].reduce((sum, s) => sum + back[c][s] * to[s][d], 0)));
  const out = new Float64Array(optical.length);
  for (let i = 0; i < optical.length; i += 3) {
    for (let d = 0; d < 3; d += 1) {
      const density = turn[d][0] * optical[i] + turn[d][1] * optical[i + 1] + turn[d][2] * optical[i + 2];
      out[i + d] = Math.min(Math.max(after.white * Math.exp(-density), 0), 1);
    }
  }
  return out;
};

const recolour = (pixels, own, other, share) => recoloured(densities(pixels, own.white), own, other, share);

const MINUS = "\u2212", DASH = "\u2013";
const points = (value) => {
  if (!Number.isFinite(value)) return DASH;
  const words = (100 * value).toFixed(1);
  return Number(words) ? (value > 0 ? `+${words}` : words.replace("-", MINUS)) : "0.0";
};
const interval = ({ mean, low, high }) => points(mean) + (Number.isFinite(low) ? ` [${points(low)}, ${points(high)}]` : "");
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;

// Round numbers from `low` to `high`, four to eight of them.
const ticks = (low, high) => {
  const rough = (high - low) / 5, unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((size) => size * unit >= rough);
  const [from, to] = [Math.ceil(low / step), Math.floor(high / step)];
  return Array.from({ length: to - from + 1 }, (_, i) => (from + i) * step);
};
const tickWords = (level) => String(Number((100 * level).toPrecision(6))).replace("-", MINUS);

// As matplotlib draws them, in line widths and in pixels.
const DASHES = {
  solid: [], dashed: [3.7, 1.6], dotted: [1, 1.65], dashdot: [6.4, 1.6, 1, 1.6], long: [5, 1], longdot: [3, 1, 1, 1], short: [1, 1],
};
const around = (count, radius, turn = 0) => Array.from({ length: count }, (_, i) => {
  const angle = turn + (2 * Math.PI * i) / count, far = typeof radius === "number" ? radius : radius[i % radius.length];
  return [far * Math.sin(angle), -far * Math.cos(angle)];
});
const cross = (turn) => around(12, [4.9, 4.9, 2.2], turn);
const MARKERS = {
  o: around(24, 4.5), s: around(4, 5.8, Math.PI / 4), D: around(4, 6), "^": around(3, 5.6), v: around(3, 5.6, Math.PI),
  P: cross(-Math.PI / 12), X: cross(Math.PI / 6), "*": around(10, [6, 2.5]),
};

const CARD = { width: 135, height: 214 }, PANEL = { width: 282, height: 270 }; // as in the static picture
const PICTURE = { left: 20, top: 20, side: 96 }, GRAPH = { left: 24, right: 127, top: 150, bottom: 194 };
const BOX = { left: 42, right: 272, top: 40, bottom: 228 }, ROWS = { left: 12, right: 270, top: 36 }, TALLEST = 44;

export default {
  render({ model, el }) {
    const view = liveView({ model, el });
    const { data, state } = view;
    const { controls, ks, sets, measures, stains, table, right, answers, tiles, first } = data;
    const names = controls.map(({ name }) => name), lastStain = stains.length - 1, side = tiles.pixels.shape[1];
    const at = (array, ...places) => array[places.reduce((sum, place, i) => sum * array.shape[i] + place, 0)];
    const numbersOf = (set, measure, control, k) => {
      const [before, own, random, bandLow, bandHigh, mean, low, high] =
        Array.from({ length: 8 }, (_, column) => at(table, set, measure, control, k, column));
      return { before, own, random, bandLow, bandHigh, mean, low, high };
    };
    const rightOf = (control, k, stain) => {
      const [own, mean, low, high] = [0, 1, 2, 3].map((column) => at(right, control, k, stain, column));
      return { whole: at(right, control, 0, stain, 0), own, mean, low, high };
    };
    const answerOf = (tile, control, k, stain) => ({
      whole: at(answers.whole, stain, tile),
      ...Object.fromEntries(["own", "low", "high"].map((name) => [name, at(answers[name], control, k, stain, tile)])),
    });
    const places = (wanted) => ({
      set: sets.indexOf(wanted.set), measure: measures.indexOf(wanted.measure), control: names.indexOf(wanted.control),
      k: ks.indexOf(wanted.k), stain: stains.indexOf(wanted.stain),
    });
    // Everything that the tables say of a state; what the test compares with them.
    const lookup = (wanted) => {
      const { set, measure, control, k, stain } = places(wanted);
      return {
        numbers: numbersOf(set, measure, control, k),
        right: rightOf(control, k, stain),
        answers: tiles.tumour.map((_, tile) => answerOf(tile, control, k, stain)),
      };
    };

    const stainOf = ({ vectors, maxima, white }, tile) =>
      ({ vectors: vectors.slice(6 * tile, 6 * tile + 6), maxima: maxima.slice(2 * tile, 2 * tile + 2), white: white[tile] });
    const pictures = tiles.tumour.map((tumour, tile) => {
      const own = stainOf(tiles.own, tile), size = 3 * side * side;
      const pixels = Array.from(tiles.pixels.subarray(tile * size, (tile + 1) * size), (byte) => byte / 255);
      const canvas = make("canvas", { width: side, height: side }), context = canvas.getContext("2d");
      return { tumour, own, other: stainOf(tiles.other, tile), optical: densities(pixels, own.white), canvas, context, shown: NaN };
    });
    const paint = (picture, share) => {
      if (picture.shown === share) return;
      const rgb = recoloured(picture.optical, picture.own, picture.other, share), image = picture.context.createImageData(side, side);
      for (let i = 0; i < side * side; i += 1) {
        for (let k = 0; k < 3; k += 1) image.data[4 * i + k] = Math.round(255 * rgb[3 * i + k]);
        image.data[4 * i + 3] = 255;
      }
      picture.context.putImageData(image, 0, 0);
      picture.shown = share;
    };

    const options = (list) => list.map((one) => [one, one]);
    const nearest = (values, wanted) => values.reduce((best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best));
    // A slider that stops at what is recorded.
    const stops = (name, label, values, text) => {
      view.keep(name, first[name], (value) => {
        const wanted = value === "" || value === null || typeof value === "object" ? NaN : Number(value);
        return Number.isFinite(wanted) ? nearest(values, wanted) : undefined;
      });
      const input = make("input", { type: "range", min: 0, max: values.length - 1, step: 1 }), told = make("output");
      input.oninput = () => view.set({ [name]: values[input.value] });
      view.root.querySelector(".live-controls").append(make("label", {}, make("span", { textContent: label }), input, told));
      view.follow(() => {
        input.value = values.indexOf(state[name]);
        told.textContent = text(state[name]);
        input.setAttribute("aria-valuetext", told.textContent);
      });
    };
    const meant = (stain) => (stain === 0 ? "own" : stain === 1 ? data.stain : stain < 1 ? "between" : "beyond");
    stops("stain", "Stain", stains, (stain) => `${stain.toFixed(1)}, ${meant(stain)}`);
    stops("k", "Ablate K", ks, (k) => `${k} channels`);
    view.choice("control", { label: "chosen by", value: first.control, options: options(names) });
    view.choice("set", { label: "Judged on", value: first.set, options: options(sets) });
    view.choice("measure", { label: "by", value: first.measure, options: options(measures) });
    view.button("First view", view.reset);
    const stepped = (name, values, step) => {
      const place = values.indexOf(state[name]) + step;
      return { [name]: values[Math.min(Math.max(place, 0), values.length - 1)] };
    };
    const across = (name, values, { key }) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -values.length, End: values.length }[key];
      return step && stepped(name, values, step);
    };

    let now = places(state), said = "";
    view.follow(() => {
      now = places(state);
      const { numbers, right: rightly } = lookup(state), { k, control, set, measure, stain } = state;
      const without = k ? `with ${k} channels by ${control} ablated` : "with no channel ablated";
      const level = Number.isFinite(numbers.own) && k ? `${percent(numbers.before, 1)} becomes ${percent(numbers.own, 1)}, ` : "";
      const words = [
        `Stain ${stain.toFixed(1)} (${meant(stain)}): of ${data.count} tiles the network of ${data.network} calls`,
        `${percent(rightly.whole)} rightly;` + (k ? ` ${without}, ${percent(rightly.own)};` : ""),
        ...(k ? [`with random ones as strong, ${percent(rightly.mean)}.`] : ["no channel is ablated."]),
        Number.isFinite(numbers.mean)
          ? `${set}, ${measure}: ${level}${interval(numbers)} points beyond random channels as strong.`
          : `${set}: ${control} is not recorded at K = ${k}.`,
      ].join(" ");
      if (words !== said) view.say((said = words));
    });

    // Drawing: lines are broken where a value is missing.
    const line = (context, xs, ys, colour, width = 1, dashes = []) => {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.setLineDash(dashes.map((dash) => dash * width));
      context.beginPath();
      let down = false;
      xs.forEach((x, i) => {
        const known = Number.isFinite(ys[i]) && Number.isFinite(x);
        if (known) context[down ? "lineTo" : "moveTo"](x, ys[i]);
        down = known;
      });
      context.stroke();
      context.setLineDash([]);
    };
    const band = (context, xs, lows, highs, colour) => {
      if (![...xs, ...lows, ...highs].every(Number.isFinite)) return;
      context.globalAlpha = 0.35;
      context.fillStyle = colour;
      context.beginPath();
      xs.forEach((x, i) => context.lineTo(x, lows[i]));
      [...xs.keys()].reverse().forEach((i) => context.lineTo(xs[i], highs[i]));
      context.fill();
      context.globalAlpha = 1;
    };
    const dot = (context, x, y, marker, edge, face = edge) => {
      if (!Number.isFinite(x) || !Number.isFinite(y)) return;
      context.beginPath();
      MARKERS[marker].forEach(([dx, dy]) => context.lineTo(x + dx, y + dy));
      context.closePath();
      context.fillStyle = face;
      context.fill();
      context.strokeStyle = edge;
      context.lineWidth = 1.4;
      context.stroke();
    };
    const writes = (context, ink) => (words, x, y, align = "left") => {
      context.textAlign = align;
      context.textBaseline = "middle";
      context.fillStyle = ink;
      context.fillText(words, x, y);
    };
    const sized = (context, canvas, width, size, weight = "") => {
      const grown = Math.min(Math.max(width / (canvas.clientWidth || width), 1), 1.3); // letters stay legible
      context.font = `${weight} ${size * grown}px system-ui, 'DejaVu Sans', sans-serif`;
    };
    const bold = (context, act) => {
      const font = context.font;
      context.font = `bold ${font.replace("bold ", "")}`;
      act();
      context.font = font;
    };
    const colourOf = ({ colour }, { ink, accents }) => (colour < 0 ? ink : accents[colour]);
    const placed = (from, to, low, high) => (value) => from + ((Math.min(Math.max(value, low), high) - low) / (high - low)) * (to - from);

    // What is under the mouse: a panel, a place in it, and the words to show there.
    let over = null;
    const hovering = (canvas, size, find) => {
      canvas.addEventListener("pointermove", (event) => {
        const scale = size.width / (canvas.clientWidth || size.width);
        const [x, y] = [event.offsetX * scale, event.offsetY * scale];
        const words = event.pointerType === "touch" ? null : find(x, y);
        over = words && { canvas, x, y, words };
        view.redraw();
      });
      canvas.addEventListener("pointerleave", () => { over = null; view.redraw(); });
    };
    const tip = (context, canvas, size, { ink, paper, muted }) => {
      if (over?.canvas !== canvas) return;
      const wide = Math.max(...over.words.map((words) => context.measureText(words).width)) + 12, tall = 16 * over.words.length + 6;
      const x = Math.min(Math.max(over.x - wide / 2, 1), Math.max(size.width - wide - 1, 1));
      const y = over.y > tall + 16 ? over.y - tall - 12 : over.y + 16;
      context.fillStyle = paper;
      context.fillRect(x, y, wide, tall);
      context.strokeStyle = muted;
      context.lineWidth = 1;
      context.strokeRect(x, y, wide, tall);
      over.words.forEach((words, i) => writes(context, ink)(words, x + 6, y + 11 + 16 * i));
    };

    const stainAt = ({ left, right: end }) => ({ x }) => ({ stain: stains[Math.round(placed(0, lastStain, left, end)(x))] });
    const placeOfStain = (box) => stains.map((_, i) => toward(box.left, box.right, i / lastStain));
    const inside = (box, act) => (x, y) => (y >= box.top - 8 && y <= box.bottom + 8 && x >= box.left - 8 && x <= box.right + 8 ? act(x, y) : null);
    const scrolls = (canvas) => { canvas.style.touchAction = "pan-y"; return canvas; }; // the page scrolls under a finger
    

    pictures.forEach((picture, tile) => {
      const label = ["normal", "tumour"][picture.tumour], xs = placeOfStain(GRAPH);
      const y = placed(GRAPH.bottom, GRAPH.top, 0, 1);
      const canvas = scrolls(view.canvas({
        label: `Tile ${tile + 1}, ${label}: its stain, and the probability of tumour over the stain. Left and right arrow keys turn the stain.`,
        ...CARD,
        drag: stainAt(GRAPH),
        keys: (event) => across("stain", stains, event),
        draw: (context, colours) => {
          const { ink, paper, muted } = colours, look = controls[now.control], colour = colourOf(look, colours);
          const found = stains.map((_, i) => answerOf(tile, now.control, now.k, i)), write = writes(context, ink);
          sized(context, canvas, CARD.width, 13);
          paint(picture, state.stain);
          context.imageSmoothingEnabled = false;
          context.drawImage(picture.canvas, PICTURE.left, PICTURE.top, PICTURE.side, PICTURE.side);
          const middle = PICTURE.left + PICTURE.side / 2, { whole, own } = found[now.stain];
          write(label, middle, 9, "center");
          write(`P ${whole.toFixed(2)} → ${own.toFixed(2)}`, middle, 133, "center");
          line(context, [GRAPH.left, GRAPH.left, GRAPH.right], [GRAPH.top, GRAPH.bottom, GRAPH.bottom], ink);
          line(context, [GRAPH.left, GRAPH.right], [y(0.5), y(0.5)], muted, 1, DASHES.dotted);
          line(context, [xs[now.stain], xs[now.stain]], [GRAPH.top, GRAPH.bottom], muted);
          band(context, xs, found.map(({ low }) => y(low)), found.map(({ high }) => y(high)), muted);
          line(context, xs, found.map((one) => y(one.whole)), ink, 1.2);
          line(context, xs, found.map((one) => y(one.own)), colour, 1.8);
          write("1", GRAPH.left - 5, GRAPH.top, "right");
          write("0", GRAPH.left - 5, GRAPH.bottom, "right");
          for (const share of [0, 1]) write(share, xs[stains.indexOf(share)], GRAPH.bottom + 12, "center");
          dot(context, xs[now.stain], y(whole), "o", ink, paper);
          dot(context, xs[now.stain], y(own), look.marker, colour);
          sized(context, canvas, CARD.width, 11.5);
          tip(context, canvas, CARD, colours);
        },
      }));
      canvas.style.flexBasis = "105px"; // three of them beside each other on a phone
      hovering(canvas, CARD, inside(GRAPH, (x) => {
        const { stain } = stainAt(GRAPH)({ x }), { whole, own, low, high } = answerOf(tile, now.control, now.k, stains.indexOf(stain));
        const [a, b, c, d] = [whole, own, low, high].map((one) => one.toFixed(2));
        return [`stain ${stain.toFixed(1)}`, `${a} → ${b}`, `random ${c}${DASH}${d}`];
      }));
    });

    // Axes of a panel: titles, what is below, [place, words] there, and levels at the left.
    const frame = (context, { ink, muted }, titles, below, marks, levels) => {
      const write = writes(context, ink), { left, right: end, top, bottom } = BOX;
      bold(context, () => write(titles[0], 0, 8));
      write(titles[1], 0, 24);
      line(context, [left, left, end], [top, bottom, bottom], ink);
      marks.forEach(([x, words]) => write(words, x, bottom + 12, "center"));
      context.globalAlpha = 0.5;
      levels.forEach(([y]) => line(context, [left, end], [y, y], muted, 0.5));
      context.globalAlpha = 1;
      levels.forEach(([y, words]) => write(words, left - 5, y, "right"));
      write(below, (left + end) / 2, bottom + 30, "center");
    };

    const lowest = Math.floor(10 * right.reduce((least, one) => Math.min(least, one), 1)) / 10;
    const rightly = scrolls(view.canvas({
      label: "Share of the tiles that are called rightly, over the stain. Left and right arrow keys turn the stain.",
      ...PANEL,
      drag: stainAt(BOX),
      keys: (event) => across("stain", stains, event),
      draw: (context, colours) => {
        const { ink, paper, muted } = colours, look = controls[now.control], colour = colourOf(look, colours);
        const found = stains.map((_, i) => rightOf(now.control, now.k, i)), xs = placeOfStain(BOX);
        const y = placed(BOX.bottom, BOX.top, lowest, 1), { whole, own, mean } = found[now.stain];
        sized(context, rightly, PANEL.width, 12);
        const levels = [];
        for (let tenth = Math.round(10 * lowest); tenth <= 10; tenth += 1) levels.push([y(tenth / 10), `${10 * tenth} %`]);
        const titles = [`${data.count} tiles: called rightly, by stain`, `${percent(whole)} → ${percent(own)}; random as strong ${percent(mean)}`];
        frame(context, colours, titles, "stain: 0 own, 1 the other", [0, 0.5, 1, 1.5].map((one) => [xs[stains.indexOf(one)], one]), levels);
        line(context, [xs[now.stain], xs[now.stain]], [BOX.top, BOX.bottom], muted);
        band(context, xs, found.map(({ low }) => y(low)), found.map(({ high }) => y(high)), muted);
        line(context, xs, found.map((one) => y(one.mean)), muted, 1.5, DASHES.dotted);
        line(context, xs, found.map((one) => y(one.whole)), ink, 1.2);
        line(context, xs, found.map((one) => y(one.own)), colour, 1.8);
        dot(context, xs[now.stain], y(whole), "o", ink, paper);
        dot(context, xs[now.stain], y(own), look.marker, colour);
        tip(context, rightly, PANEL, colours);
      },
    }));
    hovering(rightly, PANEL, inside(BOX, (x) => {
      const { stain } = stainAt(BOX)({ x }), { whole, own, mean, low, high } = rightOf(now.control, now.k, stains.indexOf(stain));
      return [`stain ${stain.toFixed(1)}: ${percent(whole)} → ${percent(own)}`, `random ${percent(mean)} [${percent(low)}, ${percent(high)}]`];
    }));

    // The ends of an axis of differences: all means and all ranges of random channels, around 0.
    const span = (from, to) => {
      let [low, high] = [0, 0];
      for (let i = from; i < to; i += 1) {
        const column = i % 8;
        if (column < 3 || column > 5 || !Number.isFinite(table[i])) continue;
        [low, high] = [Math.min(low, table[i]), Math.max(high, table[i])];
      }
      const margin = Math.max(0.12 * (high - low), 0.005);
      return [low - margin, high + margin];
    };
    const ofSet = table.length / sets.length, spans = sets.map((_, set) => span(set * ofSet, (set + 1) * ofSet)), whole = span(0, table.length);
    const placesOfK = ks.map((k) => toward(BOX.left + 6, BOX.right - 6, Math.log2(1 + k) / Math.log2(1 + ks.at(-1))));
    const kAt = (x) => placesOfK.indexOf(nearest(placesOfK, x));
    const doses = scrolls(view.canvas({
      label: "What each score wins beyond random channels as strong, over K. Left and right arrow keys change K, up and down the score.",
      ...PANEL,
      drag: ({ x }) => ({ k: ks[kAt(x)] }),
      keys: (event) => {
        const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
        return step ? stepped("control", names, step) : across("k", ks, event);
      },
      draw: (context, colours) => {
        const { ink, muted } = colours, y = placed(BOX.bottom, BOX.top, ...spans[now.set]), xs = placesOfK;
        const curves = names.map((_, control) => ks.map((__, k) => numbersOf(now.set, now.measure, control, k))), own = curves[now.control];
        sized(context, doses, PANEL.width, 12);
        const found = Number.isFinite(own[now.k].mean) ? `${interval(own[now.k])} pp` : "not recorded";
        const titles = [`${state.set}, ${state.measure}: less random`, `K = ${state.k}: ${found}`];
        frame(context, colours, titles, "K, channels ablated", xs.map((x, k) => [x, ks[k]]), ticks(...spans[now.set]).map((level) => [y(level), tickWords(level)]));
        line(context, [BOX.left, BOX.right], [y(0), y(0)], ink);
        line(context, [xs[now.k], xs[now.k]], [BOX.top, BOX.bottom], muted);
        band(context, xs, own.map(({ bandLow }) => y(bandLow)), own.map(({ bandHigh }) => y(bandHigh)), muted);
        const order = [...names.keys()].sort((one, other) => (one === now.control) - (other === now.control));
        for (const control of order) {
          const look = controls[control], thick = control === now.control ? 2 : 1.1;
          line(context, xs, curves[control].map(({ mean }) => y(mean)), colourOf(look, colours), thick, DASHES[look.line]);
        }
        const look = controls[now.control], colour = colourOf(look, colours);
        own.forEach(({ mean, low, high }, k) => {
          line(context, [xs[k], xs[k]], [y(low), y(high)], colour, 1.4);
          dot(context, xs[k], y(mean), look.marker, colour);
        });
        tip(context, doses, PANEL, colours);
      },
    }));
    hovering(doses, PANEL, inside(BOX, (x, height) => {
      const k = kAt(x), y = placed(BOX.bottom, BOX.top, ...spans[now.set]);
      const found = names.map((name, control) => ({ name, ...numbersOf(now.set, now.measure, control, k) })).filter(({ mean }) => Number.isFinite(mean));
      if (!found.length) return [`K = ${ks[k]}: not recorded`];
      const far = ({ mean }) => Math.abs(y(mean) - height), near = found.reduce((best, one) => (far(one) < far(best) ? one : best));
      return [`${near.name}, K = ${ks[k]}`, `${interval(near)} pp`];
    }));

    const tall = Math.min(TALLEST, (BOX.bottom - ROWS.top) / sets.length);
    const rowAt = (y) => (y >= ROWS.top ? sets[Math.floor((y - ROWS.top) / tall)] : undefined);
    const rows = view.canvas({
      label: "What the score wins on every set beyond random channels as strong. Up and down arrow keys choose a set.",
      ...PANEL,
      keys: ({ key }) => ({ ArrowUp: stepped("set", sets, -1), ArrowDown: stepped("set", sets, 1) })[key],
      draw: (context, colours) => {
        const { ink, muted } = colours, look = controls[now.control], colour = colourOf(look, colours), write = writes(context, ink);
        const x = placed(ROWS.left, ROWS.right, ...whole), bottom = ROWS.top + tall * sets.length;
        sized(context, rows, PANEL.width, 12);
        bold(context, () => write(`K = ${state.k}, ${state.measure}: less random, pp`, 0, 8));
        line(context, [x(0), x(0)], [ROWS.top, bottom], ink);
        for (const level of ticks(...whole)) {
          write(tickWords(level), x(level), bottom + 12, "center");
          context.globalAlpha = 0.5;
          line(context, [x(level), x(level)], [ROWS.top, bottom], muted, 0.5);
          context.globalAlpha = 1;
        }
        sets.forEach((set, i) => {
          const found = numbersOf(i, now.measure, now.control, now.k), top = ROWS.top + tall * i, middle = top + 0.72 * tall;
          if (i === now.set) {
            context.strokeStyle = ink;
            context.lineWidth = 1.4;
            context.strokeRect(1, top + 1, PANEL.width - 2, tall - 2);
          }
          write(set, 6, top + 0.28 * tall);
          const known = Number.isFinite(found.mean);
          write(known ? interval(found) : "not recorded", PANEL.width - 6, top + 0.28 * tall, "right");
          if (!known) return;
          const ends = [x(found.bandLow), x(found.bandHigh)];
          band(context, ends, [middle - 5, middle - 5], [middle + 5, middle + 5], muted);
          line(context, [x(found.low), x(found.high)], [middle, middle], colour, 2);
          dot(context, x(found.mean), middle, look.marker, colour);
        });
        tip(context, rows, PANEL, colours);
      },
    });
    rows.style.cursor = "pointer";
    rows.onclick = (event) => {
      const set = rowAt((event.offsetY * PANEL.width) / (rows.clientWidth || PANEL.width));
      if (set !== undefined) view.set({ set });
    };
    hovering(rows, PANEL, (_, y) => {
      const set = rowAt(y);
      if (set === undefined) return null;
      const found = numbersOf(sets.indexOf(set), now.measure, now.control, now.k);
      if (!Number.isFinite(found.own)) return null;
      return [`${percent(found.before, 1)} → ${percent(found.own, 1)}`, `random as strong ${percent(found.random, 1)}`];
    });

    Object.assign(view, { recolour, lookup });
    return view.end;
  },
};
