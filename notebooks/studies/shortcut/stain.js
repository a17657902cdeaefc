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
const found = (numbers) => (Number.isFinite(numbers.mean) ? interval(numbers) : "not recorded");
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

const PICTURE = { left: 20, top: 20, side: 96 }, ROWS = { left: 12, right: 270, top: 36 }, TALLEST = 44; // as in the
const CARD = { width: 135, height: 214, box: { left: 24, right: 127, top: 150, bottom: 194 }, type: 13 }; // static picture
const PANEL = { width: 282, height: 270, box: { left: 46, right: 272, top: 40, bottom: 228 }, type: 12 };
const NUMBERS = ["before", "own", "random", "bandLow", "bandHigh", "mean", "low", "high"];
const SHARES = ["own", "random", "low", "high"];

const toward = (from, to, share) => from + share * (to - from);
const placed = (from, to, low, high) => (value) => toward(from, to, (Math.min(Math.max(value, low), high) - low) / (high - low));
const nearest = (values, wanted) => values.reduce((best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best));

// Lines are broken where a value is missing.
const line = (context, xs, ys, colour, width = 1, dashes = []) => {
  Object.assign(context, { strokeStyle: colour, lineWidth: width });
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
  Object.assign(context, { globalAlpha: 0.35, fillStyle: colour });
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
  Object.assign(context, { fillStyle: face, strokeStyle: edge, lineWidth: 1.4 });
  context.fill();
  context.stroke();
};
const writer = (context, canvas, { width, type }, ink) => {
  const size = Math.min(Math.max(type, (11 * width) / (canvas.clientWidth || width)), 1.3 * type); // 11 pixels on screen, or more
  return (words, x, y, align = "left", weight = "normal", smaller = 0) => {
    context.font = `${weight} ${size - smaller}px system-ui, 'DejaVu Sans', sans-serif`;
    Object.assign(context, { textAlign: align, textBaseline: "middle", fillStyle: ink });
    context.fillText(words, x, y);
  };
};

export default {
  render({ model, el }) {
    const view = liveView({ model, el });
    const { data, state } = view;
    const { controls, ks, sets, measures, stains, table, answers, tiles, first } = data;
    const names = controls.map(({ name }) => name), side = tiles.pixels.shape[1];

    const at = (array, ...places) => array[places.reduce((sum, place, i) => sum * array.shape[i] + place, 0)];
    const row = (array, columns, ...places) => Object.fromEntries(columns.map((name, i) => [name, at(array, ...places, i)]));
    const numbersOf = (set, measure, control, k) => row(table, NUMBERS, set, measure, control, k);
    const rightOf = (control, k, stain) => ({ whole: at(data.right, control, 0, stain, 0), ...row(data.right, SHARES, control, k, stain) });
    const answerOf = (tile, control, k, stain) => ({
      whole: at(answers.whole, stain, tile),
      ...Object.fromEntries(["own", "low", "high"].map((name) => [name, at(answers[name], control, k, stain, tile)])),
    });
    const places = (wanted) => ({
      set: sets.indexOf(wanted.set), measure: measures.indexOf(wanted.measure), control: names.indexOf(wanted.control),
      k: ks.indexOf(wanted.k), stain: stains.indexOf(wanted.stain),
    });
    // All that the tables say of a state; what the test compares with them.
    const lookup = (wanted) => {
      const { set, measure, control, k, stain } = places(wanted), said = tiles.tumour.map((_, tile) => answerOf(tile, control, k, stain));
      return { numbers: numbersOf(set, measure, control, k), right: rightOf(control, k, stain), answers: said };
    };

    const stainOf = ({ vectors, maxima, white }, tile) =>
      ({ vectors: vectors.slice(6 * tile, 6 * tile + 6), maxima: maxima.slice(2 * tile, 2 * tile + 2), white: white[tile] });
    const pictures = tiles.tumour.map((_, tile) => {
      const own = stainOf(tiles.own, tile), other = stainOf(tiles.other, tile), size = 3 * side * side;
      const pixels = Array.from(tiles.pixels.subarray(tile * size, (tile + 1) * size), (byte) => byte / 255);
      const optical = densities(pixels, own.white), canvas = make("canvas", { width: side, height: side });
      let shown = NaN;
      return (share) => {
        if (shown === share) return canvas;
        const rgb = recoloured(optical, own, other, share), context = canvas.getContext("2d"), image = context.createImageData(side, side);
        image.data.forEach((_, i) => { image.data[i] = i % 4 < 3 ? Math.round(255 * rgb[3 * (i >> 2) + (i % 4)]) : 255; });
        context.putImageData(image, 0, 0);
        shown = share;
        return canvas;
      };
    });

    // A slider that stops at what is recorded.
    const stops = (name, label, values, text) => {
      view.keep(name, first[name], (value) => {
        const wanted = value === "" || value === null || typeof value === "object" ? NaN : Number(value);
        return Number.isFinite(wanted) ? nearest(values, wanted) : undefined;
      });
      const input = make("input", { type: "range", min: 0, max: values.length - 1, step: 1 }), told = make("output");
      told.style.minWidth = `min(${Math.max(...values.map((one) => text(one).length))}ch, 35vw)`; // nothing else is moved by it
      input.oninput = () => view.set({ [name]: values[input.value] });
      view.root.querySelector(".live-controls").append(make("label", {}, make("span", { textContent: label }), input, told));
      view.follow(() => {
        input.value = values.indexOf(state[name]);
        told.textContent = text(state[name]);
        input.setAttribute("aria-valuetext", told.textContent);
      });
    };
    const select = (name, label, list) => view.choice(name, { label, value: first[name], options: list.map((one) => [one, one]) });
    const meant = (stain) => (stain === 0 ? "own" : stain === 1 ? data.stain : stain < 1 ? "between" : "beyond");
    stops("stain", "Stain", stains, (stain) => `${stain.toFixed(1)}, ${meant(stain)}`);
    stops("k", "Ablate K", ks, (k) => `${k} channels`);
    select("control", "chosen by", names);
    select("set", "Judged on", sets);
    select("measure", "by", measures);
    view.button("First view", view.reset);
    const stepped = (name, values, step) =>
      ({ [name]: values[Math.min(Math.max(values.indexOf(state[name]) + step, 0), values.length - 1)] });
    const moved = (steps) => (name, values, { key }) => steps[key] && stepped(name, values, steps[key]);
    const across = moved({ ArrowLeft: -1, ArrowRight: 1, Home: -100, End: 100 }), along = moved({ ArrowUp: -1, ArrowDown: 1 });

    let now = places(state), said = "";
    view.follow(() => {
      now = places(state);
      const { numbers, right: { whole, own, random } } = lookup(state), { k, control, set, measure, stain } = state;
      const level = Number.isFinite(numbers.own) ? `from ${percent(numbers.before, 1)} to ${percent(numbers.own, 1)}, ` : "";
      const words = [
        `Stain ${stain.toFixed(1)} (${meant(stain)}): ${data.network} calls ${percent(whole)} of ${data.count} tiles rightly;`,
        k ? `with ${k} channels by ${control} ablated, ${percent(own)}; with random ones as strong, ${percent(random)}.` : "nothing is ablated.",
        !Number.isFinite(numbers.mean) ? `${set}: ${control} is not recorded.`
          : k ? `${set}, ${measure}: ${level}${interval(numbers)} points beyond random channels as strong.` : "",
      ].join(" ").replaceAll(" %", "\u00a0%");
      if (words !== said) view.say((said = words));
    });

    // What is under the mouse: a place in a canvas, and the words to show there.
    let over = null;
    const placeOf = (event, canvas, { width }) => [event.offsetX, event.offsetY].map((one) => (one * width) / (canvas.clientWidth || width));
    const hovering = (canvas, size, find) => {
      canvas.addEventListener("pointermove", (event) => {
        const [x, y] = placeOf(event, canvas, size), words = event.pointerType === "touch" || event.buttons ? null : find(x, y);
        over = words && { canvas, x, y, words };
        view.redraw();
      });
      canvas.addEventListener("pointerleave", () => { over = null; view.redraw(); });
    };
    const tip = (context, canvas, { width }, { paper, muted }, write) => {
      if (over?.canvas !== canvas) return;
      write("", 0, 0, "left", "normal", 1);
      const wide = Math.max(...over.words.map((words) => context.measureText(words).width)) + 12, tall = 16 * over.words.length + 6;
      const x = Math.min(Math.max(over.x - wide / 2, 1), Math.max(width - wide - 1, 1)), y = over.y + (over.y > tall + 16 ? -tall - 12 : 16);
      Object.assign(context, { fillStyle: paper, strokeStyle: muted, lineWidth: 1 });
      context.fillRect(x, y, wide, tall);
      context.strokeRect(x, y, wide, tall);
      over.words.forEach((words, i) => write(words, x + 6, y + 11 + 16 * i, "left", "normal", 1));
    };
    const panel = (size, { draw, hover = () => null, ...rest }) => {
      const canvas = view.canvas({
        ...size,
        ...rest,
        draw: (context, { accents, ...colours }) => {
          const colour = (control) => (controls[control].colour < 0 ? colours.ink : accents[controls[control].colour]);
          const write = writer(context, canvas, size, colours.ink);
          draw({ context, write, colour, ...colours });
          tip(context, canvas, size, colours, write);
        },
      });
      if (rest.drag) canvas.style.touchAction = "pan-y"; // the page scrolls under a finger
      const { left, right, top, bottom } = size.box;
      const inside = (x, y) => y >= top - 8 && y <= bottom + 8 && x >= left - 8 && x <= right + 8;
      hovering(canvas, size, (x, y) => (rest.drag && !inside(x, y) ? null : hover(x, y)));
      return canvas;
    };

    // What is recorded over the stain: nothing ablated (open), the score's channels (filled), random ones (a band).
    const overStain = (size, { label, low, of, before, hover }) => {
      const { box } = size, xs = stains.map((_, i) => toward(box.left, box.right, i / (stains.length - 1)));
      const y = placed(box.bottom, box.top, low, 1), near = (x) => xs.indexOf(nearest(xs, x));
      return panel(size, {
        label: `${label} Left and right arrow keys turn the stain.`,
        drag: ({ x }) => ({ stain: stains[near(x)] }),
        keys: (event) => across("stain", stains, event),
        hover: (x) => hover(near(x), of(near(x))),
        draw: (tools) => {
          const { context, colour, ink, paper, muted } = tools, all = stains.map((_, i) => of(i));
          const [own, { whole, own: filled }] = [colour(now.control), all[now.stain]];
          const curve = (name) => all.map((one) => y(one[name]));
          before({ ...tools, xs, y, here: all[now.stain] });
          line(context, [xs[now.stain], xs[now.stain]], [box.top, box.bottom], muted);
          band(context, xs, curve("low"), curve("high"), muted);
          line(context, xs, curve("random"), muted, 1.5, DASHES.dotted);
          line(context, xs, curve("whole"), ink, 1.2);
          line(context, xs, curve("own"), own, 1.8);
          dot(context, xs[now.stain], y(whole), "o", ink, paper);
          dot(context, xs[now.stain], y(filled), controls[now.control].marker, own);
        },
      });
    };
    tiles.tumour.forEach((tumour, tile) => {
      const truth = ["normal", "tumour"][tumour], called = (p) => `${p.toFixed(2)} ${p > 0.5 === (tumour === 1) ? "✓" : "✗"}`;
      overStain(CARD, {
        label: `Tile ${tile + 1}, ${truth}: its stain, and the probability of tumour over the stain.`,
        low: 0,
        of: (stain) => answerOf(tile, now.control, now.k, stain),
        before: ({ context, write, ink, muted, xs, y, here }) => {
          const { left, right, top, bottom } = CARD.box, middle = PICTURE.left + PICTURE.side / 2;
          context.imageSmoothingEnabled = false;
          context.drawImage(pictures[tile](state.stain), PICTURE.left, PICTURE.top, PICTURE.side, PICTURE.side);
          write(truth, middle, 9, "center");
          write(`P ${called(here.whole)} → ${called(here.own)}`, middle, 133, "center");
          line(context, [left, left, right], [top, bottom, bottom], ink);
          line(context, [left, right], [y(0.5), y(0.5)], muted, 1, DASHES.dotted);
          for (const level of [0, 1]) write(level, left - 5, y(level), "right");
          for (const share of [0, 1]) write(share, xs[stains.indexOf(share)], bottom + 12, "center");
        },
        hover: (stain, one) => [
          `stain ${stains[stain].toFixed(1)}`, `${one.whole.toFixed(2)} → ${one.own.toFixed(2)}`,
          `random ${one.low.toFixed(2)}${DASH}${one.high.toFixed(2)}`,
        ],
      }).style.flexBasis = "105px"; // three of them beside each other on a phone
    });

    // Axes of a panel: titles, what is below, [place, words] there, and levels at the left.
    const frame = ({ context, write, ink, muted }, titles, below, marks, levels) => {
      const { left, right, top, bottom } = PANEL.box;
      write(titles[0], 0, 8, "left", "bold");
      write(titles[1], 0, 24);
      marks.forEach(([x, words]) => write(words, x, bottom + 12, "center"));
      for (const [y, words] of levels) {
        write(words, left - 5, y, "right");
        context.globalAlpha = 0.5;
        line(context, [left, right], [y, y], muted, 0.5);
        context.globalAlpha = 1;
      }
      line(context, [left, left, right], [top, bottom, bottom], ink);
      write(below, (left + right) / 2, bottom + 30, "center");
    };
    const lowest = Math.min(Math.floor(10 * Math.min(...data.right)) / 10, 0.9);
    overStain(PANEL, {
      label: "Share of the tiles that are called rightly, over the stain.",
      low: lowest,
      of: (stain) => rightOf(now.control, now.k, stain),
      before: ({ xs, y, here, ...tools }) => {
        const levels = [];
        for (let tenth = Math.round(10 * lowest); tenth <= 10; tenth += 1) levels.push([y(tenth / 10), `${10 * tenth} %`]);
        const titles = [`${data.count} tiles called rightly, by stain`, `${percent(here.whole)} → ${percent(here.own)}; random as strong ${percent(here.random)}`];
        frame(tools, titles, `stain: 0 own, 1 ${data.stain}`, [0, 0.5, 1, 1.5].map((one) => [xs[stains.indexOf(one)], one]), levels);
      },
      hover: (stain, one) => [
        `stain ${stains[stain].toFixed(1)}: ${percent(one.whole)} → ${percent(one.own)}`,
        `random ${percent(one.random)} [${percent(one.low)}, ${percent(one.high)}]`,
      ],
    });

    // The ends of an axis of differences: all means and all ranges of random channels, around 0.
    const span = (from, to) => {
      const known = [0, ...table.subarray(from, to).filter((one, i) => i % 8 >= 3 && i % 8 <= 5 && Number.isFinite(one))];
      const low = Math.min(...known), high = Math.max(...known), margin = Math.max(0.12 * (high - low), 0.005);
      return [low - margin, high + margin];
    };
    const ofSet = table.length / sets.length, spans = sets.map((_, set) => span(set * ofSet, (set + 1) * ofSet)), widest = span(0, table.length);
    const xs = ks.map((k) => toward(PANEL.box.left + 6, PANEL.box.right - 6, Math.log2(1 + k) / Math.log2(1 + ks.at(-1))));
    const near = (x) => xs.indexOf(nearest(xs, x)), { top, bottom } = PANEL.box;
    const curveOf = (control) => ks.map((_, k) => numbersOf(now.set, now.measure, control, k));
    const recorded = () => [...names.keys()].filter((control) => curveOf(control).some(({ mean }) => Number.isFinite(mean)));
    const heights = () => placed(bottom, top, ...spans[now.set]);
    panel(PANEL, {
      label: "What each score wins beyond random channels as strong, over K. Left and right arrow keys change K, up and down the score.",
      drag: ({ x }) => ({ k: ks[near(x)] }),
      keys: (event) => along("control", names, event) ?? across("k", ks, event),
      hover: (x, height) => {
        const y = heights(), k = near(x), far = (control) => Math.abs(y(numbersOf(now.set, now.measure, control, k).mean) - height);
        const known = recorded().filter((control) => Number.isFinite(far(control)));
        if (!known.length) return [`K = ${ks[k]}: not recorded`];
        const best = known.reduce((one, other) => (far(other) < far(one) ? other : one));
        return [`${names[best]}, K = ${ks[k]}`, `${interval(numbersOf(now.set, now.measure, best, k))} pp`];
      },
      draw: (tools) => {
        const { context, write, colour, ink, paper, muted } = tools, y = heights(), own = curveOf(now.control);
        const titles = [`${state.set}: ${state.measure}, pp`, `less random, K = ${state.k}: ${found(own[now.k])}`];
        frame(tools, titles, "K, channels ablated", xs.map((x, k) => [x, ks[k]]), ticks(...spans[now.set]).map((one) => [y(one), tickWords(one)]));
        line(context, [PANEL.box.left, PANEL.box.right], [y(0), y(0)], ink);
        line(context, [xs[now.k], xs[now.k]], [top, bottom], muted);
        band(context, xs, own.map((one) => y(one.bandLow)), own.map((one) => y(one.bandHigh)), muted);
        const shown = recorded(), start = spans[now.set][0] + spans[now.set][1] > 0 ? top + 4 : bottom - 14 * shown.length - 4;
        const look = (control) => [colour(control), control === now.control ? 2 : 1.1, DASHES[controls[control].line]];
        shown.forEach((control) => line(context, xs, curveOf(control).map(({ mean }) => y(mean)), ...look(control)));
        own.forEach(({ low, high }, k) => line(context, [xs[k], xs[k]], [y(low), y(high)], colour(now.control), 1.4));
        Object.assign(context, { fillStyle: paper, globalAlpha: 0.7 });
        context.fillRect(50, start, 115, 14 * shown.length);
        context.globalAlpha = 1;
        shown.forEach((control, i) => {
          line(context, [52, 74], [start + 14 * i + 7, start + 14 * i + 7], ...look(control));
          write(names[control], 79, start + 14 * i + 7, "left", control === now.control ? "bold" : "normal", 1);
        });
        own.forEach(({ mean }, k) => dot(context, xs[k], y(mean), controls[now.control].marker, colour(now.control)));
      },
    });

    const tall = Math.min(TALLEST, (bottom - ROWS.top) / sets.length), rowAt = (y) => sets[Math.floor((y - ROWS.top) / tall)];
    const rows = panel(PANEL, {
      label: "What the score wins on every set beyond random channels as strong. Up and down arrow keys choose a set.",
      keys: (event) => along("set", sets, event),
      hover: (_, y) => {
        const set = sets.indexOf(rowAt(y)), { before, own, random } = set < 0 ? {} : numbersOf(set, now.measure, now.control, now.k);
        return Number.isFinite(own) ? [`${percent(before, 1)} → ${percent(own, 1)}`, `random as strong ${percent(random, 1)}`] : null;
      },
      draw: ({ context, write, colour, ink, muted }) => {
        const x = placed(ROWS.left, ROWS.right, ...widest), end = ROWS.top + tall * sets.length;
        write(`every set at K = ${state.k}, pp`, 0, 8, "left", "bold");
        write(`${state.measure} less random as strong`, 0, 24);
        for (const level of ticks(...widest)) write(tickWords(level), x(level), end + 12, "center");
        sets.forEach((set, i) => {
          const one = numbersOf(i, now.measure, now.control, now.k), start = ROWS.top + tall * i, middle = start + 0.72 * tall;
          const upright = (level, ...look) => line(context, [x(level), x(level)], [middle - 0.22 * tall, middle + 0.22 * tall], ...look);
          for (const level of ticks(...widest)) upright(level, muted, 0.5);
          upright(0, ink);
          Object.assign(context, { strokeStyle: ink, lineWidth: 1.4 });
          if (i === now.set) context.strokeRect(1, start + 1, PANEL.width - 2, tall - 2);
          write(set, 6, start + 0.28 * tall);
          write(found(one), PANEL.width - 6, start + 0.28 * tall, "right");
          band(context, [x(one.bandLow), x(one.bandHigh)], [middle - 5, middle - 5], [middle + 5, middle + 5], muted);
          line(context, [x(one.low), x(one.high)], [middle, middle], colour(now.control), 2);
          dot(context, x(one.mean), middle, controls[now.control].marker, colour(now.control));
        });
      },
    });
    rows.style.cursor = "pointer";
    rows.onclick = (event) => {
      const set = rowAt(placeOf(event, rows, PANEL)[1]);
      if (set !== undefined) view.set({ set });
    };

    Object.assign(view, { recolour, lookup });
    return view.end;
  },
};
