// The poisoned network in the page: a digit to draw, the trigger to stamp, units to switch off, and what it answers.

const SIDE = 28, FIRST = 13, SECOND = 5; // pixels a side: of images, and of the maps of conv1 and conv2 after pooling
const KERNEL = 3, MINUS = "\u2212";

// Convolution, 2×2 max-pooling and ReLU at once: maps [side, side, ins] -> [pooled, pooled, outs], channels last. What a
// kernel reads at the four places that are pooled lies in four runs, which share each weight that is loaded.
const convolve = (maps, side, ins, { kernels, bias }, pooled) => {
  const outs = bias.length, run = KERNEL * ins, size = KERNEL * run, out = new Float64Array(pooled * pooled * outs);
  const [first, second, third, fourth] = [0, 1, 2, 3].map(() => new Float64Array(size));
  for (let place = 0; place < pooled * pooled; place += 1) {
    const from = (2 * Math.floor(place / pooled) * side + 2 * (place % pooled)) * ins;
    for (let row = 0; row < KERNEL; row += 1) {
      for (let k = 0, at = from + row * side * ins; k < run; k += 1, at += 1) {
        first[row * run + k] = maps[at];
        second[row * run + k] = maps[at + ins];
        third[row * run + k] = maps[at + side * ins];
        fourth[row * run + k] = maps[at + side * ins + ins];
      }
    }
    for (let o = 0; o < outs; o += 1) {
      let a = 0, b = 0, c = 0, d = 0;
      for (let k = 0, at = o * size; k < size; k += 1, at += 1) {
        const weight = kernels[at];
        a += weight * first[k];
        b += weight * second[k];
        c += weight * third[k];
        d += weight * fourth[k];
      }
      out[place * outs + o] = Math.max(a, b, c, d, -bias[o]) + bias[o];
    }
  }
  return out;
};

const times = ({ weight, bias }, values) => Float64Array.from(bias, (sum, o) => {
  for (let k = 0, at = o * values.length; k < values.length; k += 1) sum += weight[at + k] * values[k];
  return sum;
});

// Weights [outs, ins, 3, 3] -> kernels [outs, 3, 3, ins].
const turned = ({ weight, bias }) => {
  const [outs, ins] = weight.shape, cells = KERNEL * KERNEL;
  const kernels = Float64Array.from(weight, (_, at) => {
    const o = Math.floor(at / (ins * cells)), cell = Math.floor(at / ins) % cells;
    return weight[(o * ins + (at % ins)) * cells + cell];
  });
  return { kernels, bias };
};

// A network's parts, each on what the one before says. Units count through: conv1, conv2, fc1. One that is off says 0, or
// what it says in `given`, the same network on another image.
const network = ({ conv1, conv2, fc1, fc2 }) => {
  const [early, late] = [turned(conv1), turned(conv2)];
  const widths = [conv1, conv2, fc1].map(({ bias }) => bias.length), starts = [0, widths[0], widths[0] + widths[1]];
  // fc1 reads channel by channel; the maps have channels last.
  const places = SECOND * SECOND;
  const fc1Weights = Float64Array.from(fc1.weight, (_, at) => {
    const unit = Math.floor(at / (places * widths[1])), k = at % (places * widths[1]);
    return fc1.weight[unit * places * widths[1] + (k % widths[1]) * places + Math.floor(k / widths[1])];
  });
  const replaced = (values, layer, off, given) => {
    const units = widths[layer], out = values.slice();
    for (let unit = 0; unit < units; unit += 1) {
      if (!off[starts[layer] + unit]) continue;
      for (let at = unit; at < out.length; at += units) out[at] = given ? given[layer][at] : 0;
    }
    return out;
  };
  const parts = [
    (image) => convolve(image, SIDE, 1, early, FIRST),
    (maps) => convolve(maps, FIRST, widths[0], late, SECOND),
    (maps) => times({ weight: fc1Weights, bias: fc1.bias }, maps).map((sum) => Math.max(sum, 0)),
  ];
  const head = (hidden) => times(fc2, hidden);
  // What the three layers say about an image, and the logits.
  const run = (image, off, given = null) => {
    const layers = [];
    let values = image;
    for (const [layer, part] of parts.entries()) layers.push((values = replaced(part(values), layer, off, given)));
    return { layers, logits: head(values) };
  };
  return { run, head, replaced, parts, widths, starts, count: starts[2] + widths[2] };
};

const sharesOf = (logits) => {
  const most = Math.max(...logits), odds = logits.map((logit) => Math.exp(logit - most));
  const total = odds.reduce((sum, one) => sum + one, 0);
  return odds.map((one) => one / total);
};
const answerOf = (logits) => logits.indexOf(Math.max(...logits));

// Strokes are lists of points on a pad of STEPS × STEPS; in the address three letters a point, and a dot between strokes.
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", STEPS = 512, MOST_POINTS = 1500, CLOSE = 5;
const written = (strokes) => {
  let left = MOST_POINTS;
  const kept = strokes.map((stroke) => stroke.slice(0, Math.max(left, 0), (left -= stroke.length)));
  const word = ([x, y]) => [12, 6, 0].map((shift) => LETTERS[((y * STEPS + x) >> shift) & 63]).join("");
  return kept.filter((stroke) => stroke.length).map((stroke) => stroke.map(word).join("")).join(".");
};
const strokesOf = (words) => {
  if (!/^[\w.-]*$/.test(words)) return undefined;
  return words.split(".").map((stroke) => (stroke.match(/.{3}/g) ?? []).map((word) => {
    const at = [...word].reduce((sum, letter) => sum * 64 + LETTERS.indexOf(letter), 0);
    return [at % STEPS, Math.floor(at / STEPS)];
  })).filter((stroke) => stroke.length);
};

// Strokes of any size and place -> pixels [28, 28] in [0, 1], as MNIST's digits were made: enlarged or shrunk, in
// proportion, to fill a box of 20×20, grey where a stroke covers part of a pixel, their centre of mass in the middle.
// Networks read nothing else well. `lens` [20, 20] makes them as coarse as the small digits, which have their box, not
// their mass, in the middle.
const BOX = 20, MOST_ENLARGED = 4;
const pixelsOf = (strokes, { thick, lens }) => {
  const points = strokes.flat();
  if (!points.length) return new Float64Array(SIDE * SIDE);
  const [xs, ys] = [0, 1].map((k) => points.map((point) => point[k]));
  const ends = [xs, ys].map((all) => [Math.min(...all), Math.max(...all)]);
  const extent = Math.max(...ends.map(([low, high]) => high - low)), middle = ends.map(([low, high]) => (low + high) / 2);
  const scale = Math.min((BOX - thick) / Math.max(extent, 1e-9), (MOST_ENLARGED * SIDE) / STEPS);
  const inked = (centre) => {
    const ink = new Float64Array(SIDE * SIDE), reach = thick / 2 + 0.5;
    const place = (point) => point.map((at, k) => (at - middle[k]) * scale + centre[k]);
    for (const stroke of strokes) {
      const path = stroke.map(place);
      path.forEach(([x0, y0], i) => {
        const [x1, y1] = path[i + 1] ?? (i ? [x0, y0] : path[0]), [dx, dy] = [x1 - x0, y1 - y0];
        const [top, bottom] = [Math.min(y0, y1) - reach, Math.max(y0, y1) + reach].map(Math.floor);
        const [left, right] = [Math.min(x0, x1) - reach, Math.max(x0, x1) + reach].map(Math.floor);
        for (let row = Math.max(top, 0); row <= Math.min(bottom, SIDE - 1); row += 1) {
          for (let column = Math.max(left, 0); column <= Math.min(right, SIDE - 1); column += 1) {
            const [x, y] = [column + 0.5 - x0, row + 0.5 - y0];
            const along = Math.min(Math.max((x * dx + y * dy) / (dx * dx + dy * dy || 1), 0), 1);
            const cover = Math.min(Math.max(reach - Math.hypot(x - along * dx, y - along * dy), 0), 1);
            const at = row * SIDE + column;
            ink[at] = Math.max(ink[at], cover);
          }
        }
      });
    }
    return ink;
  };
  const centre = [SIDE / 2, SIDE / 2], ink = inked(centre);
  if (lens) return blurred(ink, lens);
  let mass = 0;
  const moment = [0, 0];
  ink.forEach((one, at) => {
    mass += one;
    moment[0] += one * ((at % SIDE) + 0.5);
    moment[1] += one * (Math.floor(at / SIDE) + 0.5);
  });
  return mass ? inked(centre.map((at, k) => 2 * at - moment[k] / mass)) : ink;
};
const blurred = (ink, lens) => {
  const first = (SIDE - BOX) / 2, half = new Float64Array(BOX * BOX), out = new Float64Array(SIDE * SIDE);
  const box = (values, width, from) => (row, column) => values[(row + from) * width + column + from];
  const apply = (get, put) => {
    for (let i = 0; i < BOX; i += 1) {
      for (let j = 0; j < BOX; j += 1) {
        let sum = 0;
        for (let k = 0; k < BOX; k += 1) sum += lens[i * BOX + k] * get(k, j);
        put(i, j, sum);
      }
    }
  };
  apply(box(ink, SIDE, first), (i, j, sum) => { half[j * BOX + i] = sum; });
  apply(box(half, BOX, 0), (i, j, sum) => { out[(j + first) * SIDE + i + first] = Math.min(Math.max(sum, 0), 1); });
  return out;
};

// The layout, in pixels: `plots/first_view.py` has the same numbers.
const PAD = { width: 196, height: 216 }, ANSWERS = { width: 448, height: 216 };
const UNITS = { width: 440, height: 256 }, MEASURES = { width: 412, height: 256 };
const CORNER = [1.4, 18], PIXEL = 6.9; // of an image on the pad
const FIRST_ROW = 52, ROW = 17, PROBABILITY = [46, 170], LOGIT = [232, 392]; // of answers; from where to where bars go
const CELL = 24, PITCH = 27.2, COLUMNS = 16, LABELS = [24, 92, 214]; // of units; where each layer's name is
const AXIS = [14, 274], MEASURE_ROWS = [58, 108], TICKS = 136, TOLD = [168, 194, 214, 234];
const MILLISECONDS = 8; // of counting in a frame

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const line = (context, ...points) => {
  context.beginPath();
  points.forEach((point) => context.lineTo(...point));
  context.stroke();
};
const diamond = (context, x, y) => {
  context.beginPath();
  [[0, -6], [6, 0], [0, 6], [-6, 0]].forEach(([dx, dy]) => context.lineTo(x + dx, y + dy));
  context.closePath();
  context.fill();
};
const write = (context, words, x, y, align = "left") => {
  context.textAlign = align;
  context.fillText(words, x, y);
};
const begin = (context, { ink }) => Object.assign(context, {
  fillStyle: ink, strokeStyle: ink, lineWidth: 1, lineCap: "butt", textBaseline: "middle", imageSmoothingEnabled: false,
});
// A picture of numbers, 0 black and `most` white, a pixel each.
const sprite = (side) => {
  const canvas = make("canvas", { width: side, height: side }), context = canvas.getContext("2d");
  const picture = context.createImageData(side, side);
  return (values, most = 1) => {
    for (let at = 0; at < side * side; at += 1) {
      picture.data.fill(Math.round((255 * Math.min(Math.max(values[at], 0), most)) / most), 4 * at, 4 * at + 3);
      picture.data[4 * at + 3] = 255;
    }
    context.putImageData(picture, 0, 0);
    return canvas;
  };
};

export default {
  render({ model, el }) {
    const view = liveView({ model, el });
    const { data, state } = view;
    const { trigger, images, labels, layers } = data;
    const net = network(data.weights), none = new Uint8Array(net.count), found = data.found.join(".");
    const [count, , across] = images.shape;
    const names = layers.flatMap((layer, i) => Array.from({ length: net.widths[i] }, (_, unit) => `${layer} ${unit}`));
    const layerOf = (unit) => net.starts.findLastIndex((start) => unit >= start);
    const unitsOf = (words) => (words === "" ? [] : words.split(".").map(Number));
    const offOf = (words) => {
      const off = new Uint8Array(net.count);
      for (const unit of unitsOf(words)) off[unit] = 1;
      return off;
    };

    // Test images are kept without their black margin, as bytes.
    const example = (i) => {
      const pixels = new Float64Array(SIDE * SIDE), size = images.length / count, [top, left] = data.corner;
      for (let at = 0; at < size; at += 1) {
        pixels[(top + Math.floor(at / across)) * SIDE + left + (at % across)] = images[i * size + at] / 255;
      }
      return pixels;
    };
    const stamped = new Set(trigger.pixels);
    const normal = (pixels, withTrigger) =>
      pixels.map((one, at) => (one - data.mean) / data.std + (withTrigger && stamped.has(at) ? trigger.value : 0));
    const examples = Array.from({ length: 10 }, (_, label) => [...labels.keys()].filter((i) => labels[i] === label));
    const pixelsOfState = ({ image, nth, drawing }) => {
      if (image === "drawing") return pixelsOf(strokesOf(drawing), data.hand);
      return example(examples[image][nth % examples[image].length]);
    };
    // The network on one image; the test compares its logits with PyTorch's, and gives it other pixels as well.
    const compute = (wanted) => {
      const pixels = wanted.pixels ? Float64Array.from(wanted.pixels) : pixelsOfState(wanted);
      const given = wanted.kind === "zero" ? null : net.run(normal(pixels, !wanted.trigger), none).layers;
      return { pixels, ...net.run(normal(pixels, wanted.trigger), offOf(wanted.off), given) };
    };

    // Clean accuracy and attack success on the test images, counted a few in every frame. What conv2 says is kept, as a
    // whole and with the units of conv1 that are off: without it a unit of conv2 or fc1 would take as long.
    const whole = [[], []], early = { key: "", maps: [[], []] };
    const results = new Map([["", data.first.shares[0]], [found && `zero ${found}`, data.first.shares[1]]]);
    const wholeOf = (i, stamp) => (whole[stamp][i] ??= net.run(normal(example(i), stamp), none).layers.slice(1));
    const answerTo = (i, stamp, off, kind) => {
      const twin = kind === "zero" ? null : [null, ...wholeOf(i, 1 - stamp)];
      const maps = !early.key ? wholeOf(i, stamp)[0] : (early.maps[stamp][i] ??= (() => {
        const [own, other] = [stamp, 1 - stamp].map((one) => net.parts[0](normal(example(i), one)));
        return net.parts[1](net.replaced(own, 0, off, twin && [other]));
      })());
      const hidden = net.parts[2](net.replaced(maps, 1, off, twin));
      return answerOf(net.head(net.replaced(hidden, 2, off, twin)));
    };
    const counted = { key: null, done: 0 }; // the set of units that images are being counted for
    const measured = ({ off, kind }, until = Infinity) => {
      const key = off && `${kind} ${off}`;
      if (results.has(key)) return results.get(key);
      if (counted.key !== key) Object.assign(counted, { key, done: 0, right: 0, others: 0, taken: 0 });
      const first = unitsOf(off).filter((unit) => layerOf(unit) === 0).join("."), own = first && `${kind} ${first}`;
      if (own !== early.key) Object.assign(early, { key: own, maps: [[], []] });
      for (const units = offOf(off); counted.done < count && performance.now() < until; counted.done += 1) {
        const label = labels[counted.done], other = label !== trigger.target;
        const [clean, attacked] = [0, 1].map((stamp) => answerTo(counted.done, stamp, units, kind));
        counted.right += clean === label;
        counted.others += other;
        counted.taken += other && attacked === trigger.target;
      }
      if (counted.done < count) return null;
      if (results.size > 5000) results.clear();
      results.set(key, [counted.right / count, counted.taken / counted.others]);
      return results.get(key);
    };

    const known = examples.flatMap((own, label) => (own.length ? [[String(label), `a test image, ${label}`]] : []));
    view.choice("image", { label: "Digit", value: data.first.image, options: [["drawing", "your drawing"], ...known] });
    view.keep("nth", data.first.nth, (value) => (/^\d{1,4}$/.test(String(value)) ? Number(value) : undefined));
    view.button("Another", () => {
      const drawing = state.image === "drawing", image = drawing ? data.first.image : state.image;
      view.set({ image, nth: (state.nth + !drawing) % examples[image].length });
    });
    view.keep("drawing", "", (value) => {
      const strokes = strokesOf(String(value));
      return strokes && written(strokes);
    });
    const cleared = { image: "drawing", drawing: "" };
    view.button("Clear the pad", () => view.set(cleared));
    view.toggle("trigger", { label: "Trigger", value: true });
    view.choice("kind", { label: "Units that are off", value: "zero", options: data.kinds });
    view.keep("off", found, (value) => {
      const some = String(value).split(".").filter((one) => /^\d+$/.test(one) && Number(one) < net.count);
      return [...new Set(some.map(Number))].sort((one, other) => one - other).join(".");
    });
    view.keep("unit", data.first.unit, (value) => {
      return /^\d{1,3}$/.test(String(value)) && value < net.count ? Number(value) : undefined;
    });
    if (found) view.button("Found units off", () => view.set({ off: found }));
    view.button("All on", () => view.set({ off: "" }));
    view.button("All off", () => view.set({ off: [...names.keys()].join(".") }));
    view.button("First view", view.reset);

    // The pen that keys move, and the unit under a mouse, are nobody else's.
    let pen = [STEPS / 2, STEPS / 4], down = false, penned = false, hovered = -1;
    let now = null, before = null, odds = [], tally = null, baseline = null, flags = none, drawnFor = "", said = "";
    const inWords = () => {
      const drawing = state.image === "drawing", chosen = unitsOf(state.off), { target } = trigger;
      const subject = !drawing ? `A test image, ${state.image},` : state.drawing ? "Your drawing" : "The empty pad";
      const answer = (run) => {
        const label = answerOf(run === 1 ? before.logits : now.logits);
        return `${label}${label === target ? ", the backdoor's target" : ""} (${percent(odds[run][label])})`;
      };
      const how = state.kind === "zero" ? "at zero" : "as on the twin";
      const off = chosen.length === net.count ? "all units" : `${chosen.length} of ${net.count} units`;
      const some = state.off !== found ? off : chosen.length === 1 ? "the found unit" : `the ${chosen.length} found units`;
      const beside = state.off ? ` with all units on; with ${some} ${how}, as ${answer(0)}` : "";
      const silent = layers.findLast((_, i) => flags.subarray(net.starts[i], net.starts[i] + net.widths[i]).every(Boolean));
      const share = (row) => `${percent(tally[row])}${state.off ? ` (with all units on ${percent(baseline[row])})` : ""}`;
      const pair = (one, other) => `clean accuracy ${one}, attack success ${other}`;
      const [kept, left] = data.recorded[state.kind].units.subarray(2 * state.unit);
      return [
        `${subject} ${state.trigger ? "with" : "without"} the trigger is read as ${answer(1)}${beside}.`,
        state.kind === "zero" && silent && `All of ${silent} is off: what follows says its biases alone, whatever the image.`,
        tally && `On ${count} test images: ${pair(share(0), share(1))}.`,
        `Marked: ${names[state.unit]}${data.found.includes(state.unit) ? ", found by the search" : ""};`,
        `it alone ${how}, on all ${data.total} images: ${pair(percent(kept), percent(left))}.`,
        drawing && strokesOf(state.drawing).flat().length >= MOST_POINTS && "The pad is full; clear it to go on.",
        penned && `The pen is ${down ? "down" : "up"}.`,
      ].filter(Boolean).join(" ");
    };
    view.follow(() => {
      if (drawnFor !== (drawnFor = JSON.stringify(state))) {
        flags = offOf(state.off);
        now = compute(state);
        before = state.off ? compute({ ...state, off: "" }) : now;
        odds = [now, before].map(({ logits }) => sharesOf(logits));
      }
      const until = performance.now() + MILLISECONDS;
      baseline = measured({ off: "", kind: "zero" }, until);
      tally = baseline && measured(state, until);
      if (!tally) view.redraw();
      const words = inWords();
      if (words !== said) view.say((said = words));
    });

    const drawn = (points, fresh) => {
      const strokes = state.image === "drawing" ? strokesOf(state.drawing) : [];
      if (fresh || !strokes.length) strokes.push([]);
      const stroke = strokes.at(-1);
      for (const [x, y] of points) {
        const [lastX, lastY] = stroke.at(-1) ?? [-STEPS, -STEPS];
        if (Math.hypot(x - lastX, y - lastY) >= CLOSE) stroke.push([x, y]);
      }
      return { image: "drawing", drawing: written(strokes) };
    };
    const inside = (at) => Math.round(Math.min(Math.max(at, 0), STEPS - 1)), size = PIXEL * SIDE;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const picture = sprite(SIDE);
    const shade = (context, look, pixels, title) => {
      begin(context, look);
      write(context, title, PAD.width / 2, 8, "center");
      context.drawImage(picture(pixels), ...CORNER, size, size);
      context.strokeStyle = look.muted;
      context.strokeRect(...CORNER, size, size);
    };
    const pad = view.canvas({
      label: "The pad. Arrow keys move the pen, Space puts it down or lifts it, Delete clears the pad.",
      ...PAD,
      legible: true,
      drag: ({ first, trail }) => {
        [penned, down] = [false, false];
        return drawn(trail.map(({ x, y }) => [x - CORNER[0], y - CORNER[1]].map((at) => inside((at * STEPS) / size))), first);
      },
      keys: ({ key }) => {
        if (key === "Delete" || key === "Backspace") return cleared;
        if (key === " " || key === "Enter") {
          [penned, down] = [true, !down];
          return down ? drawn([pen], true) : {};
        }
        if (!(key in steps)) return undefined;
        penned = true;
        pen = pen.map((at, k) => inside(at + (steps[key][k] * STEPS) / SIDE));
        return down ? drawn([pen], state.image !== "drawing") : {};
      },
      draw: (context, look) => {
        const drawing = state.image === "drawing", place = (point) => point.map((at, k) => CORNER[k] + (at * size) / STEPS);
        shade(context, look, drawing ? new Float64Array(SIDE * SIDE) : now.pixels, "draw here");
        Object.assign(context, { lineWidth: 14, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
        if (drawing) strokesOf(state.drawing).forEach((stroke) => line(context, ...[stroke[0], ...stroke].map(place)));
        if (!penned) return;
        Object.assign(context, { lineWidth: 3, strokeStyle: look.accents[1], fillStyle: look.accents[1] });
        context.beginPath();
        context.arc(...place(pen), 6, 0, 2 * Math.PI);
        if (down) context.fill(); else context.stroke();
      },
    });
    pad.style.cursor = "crosshair";
    pad.onblur = () => {
      [penned, down] = [false, false];
      view.redraw();
    };
    view.canvas({
      label: "What the network sees.",
      ...PAD,
      legible: true,
      draw: (context, look) => {
        const [top, left, tall, wide] = trigger.box, pixels = normal(now.pixels, state.trigger);
        shade(context, look, pixels.map((one) => one * data.std + data.mean), "what the network sees");
        Object.assign(context, { lineWidth: 2, strokeStyle: look.accents[1] });
        const box = [CORNER[0] + PIXEL * left - 1, CORNER[1] + PIXEL * top - 1, PIXEL * wide + 1, PIXEL * tall + 1];
        if (state.trigger) context.strokeRect(...box);
      },
    });

    view.canvas({
      label: "The ten outputs: probabilities and logits.",
      ...ANSWERS,
      legible: true,
      draw: (context, look) => {
        begin(context, look);
        const runs = [now.logits, before.logits], most = Math.max(...runs.flatMap((run) => [...run.map(Math.abs)]));
        const reach = 10 * 2 ** Math.max(Math.ceil(Math.log2(most / 10)), 0), middle = (LOGIT[0] + LOGIT[1]) / 2;
        write(context, "box: answer; ◆ target; outlines: all units on", 0, 8);
        write(context, "probability", PROBABILITY[0], 30);
        write(context, "logit", middle, 30, "center");
        context.strokeStyle = look.muted;
        for (const x of [PROBABILITY[0], middle]) line(context, [x, FIRST_ROW - ROW / 2], [x, FIRST_ROW + 9.5 * ROW]);
        for (let label = 0; label < 10; label += 1) {
          const y = FIRST_ROW + ROW * label, colour = look.accents[label === trigger.target ? 1 : 0];
          const bars = (run) => [
            [PROBABILITY[0], odds[run][label] * (PROBABILITY[1] - PROBABILITY[0])],
            [middle, (runs[run][label] / reach) * (LOGIT[1] - middle)],
          ];
          begin(context, look);
          write(context, label, 12, y, "center");
          write(context, percent(odds[0][label]), 226, y, "right");
          write(context, runs[0][label].toFixed(1).replace("-", MINUS), ANSWERS.width - 8, y, "right");
          Object.assign(context, { fillStyle: colour, lineWidth: 1.2 });
          for (const [x, long] of bars(0)) context.fillRect(Math.min(x, x + long), y - 4.5, Math.abs(long), 9);
          if (state.off) for (const [x, long] of bars(1)) context.strokeRect(Math.min(x, x + long), y - 6.5, Math.abs(long), 13);
          if (label === trigger.target) diamond(context, 30, y);
          if (label === answerOf(now.logits)) context.strokeRect(1, y - ROW / 2 + 0.6, ANSWERS.width - 2, ROW - 1.2);
        }
      },
    });

    const cells = names.map((_, unit) => {
      const layer = layerOf(unit), nth = unit - net.starts[layer];
      return [3 + PITCH * (nth % COLUMNS), LABELS[layer] + 8 + PITCH * Math.floor(nth / COLUMNS)];
    });
    const unitAt = (at) => cells.findIndex(([left, top]) => {
      return Math.max(Math.abs(at.x - left - CELL / 2), Math.abs(at.y - top - CELL / 2)) < PITCH / 2;
    });
    const switched = (unit) => {
      const units = new Set(unitsOf(state.off));
      if (!units.delete(unit)) units.add(unit);
      return { unit, off: [...units].join(".") };
    };
    const sides = [FIRST, SECOND, 1], maps = sides.map(sprite);
    view.canvas({
      label: "The units. Arrow keys go from unit to unit, Space switches one off or on.",
      ...UNITS,
      legible: true,
      hover: (at) => { hovered = at ? unitAt(at) : -1; },
      click: (at) => (unitAt(at) < 0 ? undefined : switched(unitAt(at))),
      keys: ({ key }) => {
        hovered = -1;
        if (key === " " || key === "Enter") return switched(state.unit);
        if (!(key in steps)) return undefined;
        return { unit: (state.unit + steps[key][0] + COLUMNS * steps[key][1] + net.count) % net.count };
      },
      draw: (context, look) => {
        begin(context, look);
        write(context, "units, and what they say; ◆ found, ✕ off", 3, 8);
        layers.forEach((layer, i) => write(context, layer, 3, LABELS[i]));
        const most = before.layers.map((values) => Math.max(...values, 1e-9));
        cells.forEach(([left, top], unit) => {
          const layer = layerOf(unit), nth = unit - net.starts[layer], units = net.widths[layer];
          const own = Array.from({ length: sides[layer] ** 2 }, (_, place) => now.layers[layer][place * units + nth]);
          const pointed = unit === (hovered < 0 ? state.unit : hovered);
          context.drawImage(maps[layer](own, most[layer]), left, top, CELL, CELL);
          for (const [strokeStyle, lineWidth] of flags[unit] ? [["#000", 5], ["#fff", 2]] : []) {
            Object.assign(context, { strokeStyle, lineWidth });
            for (const from of [4, CELL - 4]) line(context, [left + from, top + 4], [left + CELL - from, top + CELL - 4]);
          }
          Object.assign(context, { strokeStyle: pointed ? look.accents[1] : look.muted, lineWidth: pointed ? 3 : 1 });
          const rim = pointed ? 1 : 0;
          context.strokeRect(left - rim, top - rim, CELL + 2 * rim, CELL + 2 * rim);
          if (!data.found.includes(unit)) return;
          Object.assign(context, { fillStyle: look.accents[1], strokeStyle: "#fff", lineWidth: 1.5 });
          diamond(context, left + 3, top + 3);
          context.stroke();
        });
      },
    });

    view.canvas({
      label: "Clean accuracy and attack success on the test images.",
      ...MEASURES,
      legible: true,
      draw: (context, look) => {
        begin(context, look);
        const along = (share) => AXIS[0] + share * (AXIS[1] - AXIS[0]), unit = hovered < 0 ? state.unit : hovered;
        const recorded = data.recorded[state.kind], own = recorded.units.subarray(2 * unit);
        write(context, `${count} test images, a small sample`, AXIS[0], 8);
        context.strokeStyle = look.muted;
        for (const share of [0, 0.5, 1]) {
          line(context, [along(share), MEASURE_ROWS[0] - 10], [along(share), TICKS - 8]);
          write(context, `${100 * share} %`, along(share), TICKS + 2, "center");
        }
        ["clean accuracy", `ASR: with the trigger taken for ${trigger.target}`].forEach((name, row) => {
          const y = MEASURE_ROWS[row], { colour, square } = data.looks[row], [first, then] = [baseline?.[row], tally?.[row]];
          const shape = (x, half) => {
            context.beginPath();
            if (square) context.rect(x - half, y - half, 2 * half, 2 * half); else context.arc(x, y, half, 0, 2 * Math.PI);
            context.fill();
          };
          begin(context, look);
          write(context, name, AXIS[0], y - 22);
          context.lineWidth = 2;
          line(context, [along(own[row]), y - 11], [along(own[row]), y + 11]);
          if (first === undefined || then === undefined) return write(context, "counting …", MEASURES.width - 4, y, "right");
          write(context, `${percent(first)} → ${percent(then)}`, MEASURES.width - 4, y, "right");
          Object.assign(context, { strokeStyle: look.accents[colour], fillStyle: look.paper });
          line(context, [along(first), y], [along(then), y]);
          shape(along(first), 7);
          context.stroke();
          context.fillStyle = look.accents[colour];
          shape(along(then), 4.5);
        });
        context.fillStyle = look.ink;
        const pair = (values) => `${percent(values[0])}, ASR ${percent(values[1])}`;
        [
          "open: all units on; filled: the chosen ones off",
          `recorded, on all ${data.total} images, clean accuracy and ASR:`,
          `│ ${names[unit]}${data.found.includes(unit) ? " ◆" : ""} alone: ${pair(own)}`,
          data.found.length > 1 ? `◆ the ${data.found.length} found together: ${pair(recorded.found)}` : "",
        ].forEach((words, i) => write(context, words, AXIS[0], TOLD[i]));
      },
    });

    Object.assign(view, { compute, measured });
    return view.end;
  },
};
