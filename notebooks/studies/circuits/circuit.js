// The induction transformer in the page: its edges, to be cut, and how faithful what is left is under every stand-in.

// rows [n, ins] · weight [ins, outs], one head's part of an array; every `step`-th row from the `first`, 0 elsewhere.
// Four columns at a time: there is no store in the inner loop.
const times = (rows, n, ins, weight, from, outs, first = 0, step = 1) => {
  const out = new Float64Array(n * outs), fours = outs - (outs % 4);
  for (let i = first; i < n; i += step) {
    const row = i * ins, to = i * outs;
    for (let o = 0; o < fours; o += 4) {
      let a = 0, b = 0, c = 0, d = 0;
      for (let k = 0, at = from + o; k < ins; k += 1, at += outs) {
        const value = rows[row + k];
        a += value * weight[at];
        b += value * weight[at + 1];
        c += value * weight[at + 2];
        d += value * weight[at + 3];
      }
      out[to + o] = a;
      out[to + o + 1] = b;
      out[to + o + 2] = c;
      out[to + o + 3] = d;
    }
    for (let o = fours; o < outs; o += 1) {
      for (let k = 0; k < ins; k += 1) out[to + o] += rows[row + k] * weight[from + k * outs + o];
    }
  }
  return out;
};

// A network on prompts: what each source writes, [items · length, width], and the logits at the place that is asked.
// Where an edge is cut, its destination reads `given` of the source; the sum is formed anew.
const run = (network, graph, { tokens, given = null, cut = null, whole = false }) => {
  const [items, length] = tokens.shape, rows = items * length, { sources, into, asked } = graph;
  const width = network.embedding.shape[1], last = network.blocks.length - 1;
  const written = sources.map(() => new Float64Array(rows * width));
  const [ofTokens, ofPositions] = [written[sources.indexOf("token")], written[sources.indexOf("position")]];
  for (let row = 0; row < rows; row += 1) {
    for (let k = 0; k < width; k += 1) {
      ofTokens[row * width + k] = network.embedding[tokens[row] * width + k];
      ofPositions[row * width + k] = network.positions[(row % length) * width + k];
    }
  }
  const sums = new Map(); // queries, keys and values often read the same
  const read = (destination) => {
    const own = into[destination], key = own.map(([source, edge]) => (cut?.[edge] ? -1 - source : source)).join();
    if (sums.has(key)) return sums.get(key);
    const sum = new Float64Array(rows * width);
    for (const [source, edge] of own) {
      const part = cut?.[edge] ? given[source] : written[source];
      for (let i = 0; i < sum.length; i += 1) sum[i] += part[i];
    }
    sums.set(key, sum);
    return sum;
  };
  network.blocks.forEach(({ query, key, value, out }, layer) => {
    const [heads, , size] = query.shape, scale = size ** -0.5;
    const [first, end, step] = layer === last && !whole ? [asked, asked + 1, length] : [0, length, 1];
    for (let head = 0; head < heads; head += 1) {
      const name = `a${layer}.${head}`, from = head * width * size;
      const q = times(read(`${name}.q`), rows, width, query, from, size, first, step);
      const k = times(read(`${name}.k`), rows, width, key, from, size);
      const v = times(read(`${name}.v`), rows, width, value, from, size);
      const mixed = new Float64Array(rows * size), weights = new Float64Array(length);
      for (let item = 0; item < items; item += 1) {
        for (let to = first; to < end; to += 1) {
          const at = (item * length + to) * size;
          let most = -Infinity, total = 0;
          for (let place = 0; place <= to; place += 1) {
            let score = 0;
            for (let i = 0, other = (item * length + place) * size; i < size; i += 1) score += q[at + i] * k[other + i];
            weights[place] = score * scale;
            most = Math.max(most, weights[place]);
          }
          for (let place = 0; place <= to; place += 1) total += weights[place] = Math.exp(weights[place] - most);
          for (let place = 0; place <= to; place += 1) {
            const weight = weights[place] / total, other = (item * length + place) * size;
            for (let i = 0; i < size; i += 1) mixed[at + i] += weight * v[other + i];
          }
        }
      }
      written[sources.indexOf(name)] = times(mixed, rows, size, out, head * size * width, width, first, step);
    }
  });
  const end = read("logits"), [vocabulary] = network.unembed.shape;
  const logits = new Float64Array(items * vocabulary);
  for (let item = 0; item < items; item += 1) {
    for (let token = 0; token < vocabulary; token += 1) {
      let sum = 0;
      for (let k = 0; k < width; k += 1) sum += end[(item * length + asked) * width + k] * network.unembed[token * width + k];
      logits[item * vocabulary + token] = sum;
    }
  }
  return { written, logits };
};

// The mean over items, and over positions where asked, of what some runs wrote, as often as there are rows in one.
const averaged = (runs, length, width, over) => {
  const mean = new Float64Array(length * width), rows = runs[0].length / width;
  for (const one of runs) for (let i = 0; i < one.length; i += 1) mean[i % mean.length] += one[i];
  for (let i = 0; i < mean.length; i += 1) mean[i] /= (runs.length * rows) / length;
  if (over === "items and positions") {
    for (let k = 0; k < width; k += 1) {
      let sum = 0;
      for (let place = 0; place < length; place += 1) sum += mean[place * width + k];
      for (let place = 0; place < length; place += 1) mean[place * width + k] = sum / length;
    }
  }
  return Float64Array.from({ length: rows * width }, (_, i) => mean[i % mean.length]);
};

const MINUS = "\u2212", DASH = "\u2013";
const signed = (value) => {
  const size = Math.abs(value);
  return size < 0.005 ? "0" : `${value < 0 ? MINUS : "+"}${size.toFixed(size < 0.095 ? 2 : 1)}`;
};
const plain = (value) => (Number.isFinite(value) ? value.toFixed(2).replace(/^-(?=0\.00$)/, "").replace("-", MINUS) : DASH);
const CIRCUIT = { width: 500, height: 400 }, ROWS = { width: 358, height: 400 };
const FIRST_ROW = 62, ROW = 36, BARS = [112, 194], DOTS = [246, 314], LOW = -0.2, HIGH = 1.2; // as in the static picture
const WIDEST = 8, NARROWEST = 0.9, CUT_WIDTH = 1.1, NEAR = 12; // pixels
const PASSES = 0.9; // from which faithfulness counts
const MILLISECONDS = 6; // of a frame, for stand-ins that are not the chosen one

export default {
  render({ model, el }) {
    const view = liveView({ model, el });
    const { data, state } = view;
    const { networks, standIns, prompts, edges, sources, places, right, wrong, asked } = data;
    const names = edges.map(([source, destination]) => `${source} → ${destination}`);
    const into = {};
    edges.forEach(([source, destination], edge) => (into[destination] ??= []).push([sources.indexOf(source), edge]));
    const graph = { sources, into, asked };
    const [items, length] = prompts.clean.shape, width = networks[0].embedding.shape[1];

    // What sources of a network are replaced by, for the network that was asked for last.
    let known = null, runs = {}, given = {};
    const wrote = (network, which) => (runs[which] ??= run(network, graph, { tokens: prompts[which], whole: true }).written);
    const replacement = (network, { name, inputs, over }) => {
      if (network !== known) [known, runs, given] = [network, {}, {}];
      return (given[name] ??= sources.map((_, source) => {
        const constant = network.constants[name];
        if (!inputs.length) {
          return Float64Array.from({ length: items * length * width }, (__, i) => (constant ? constant[source * width + (i % width)] : 0));
        }
        const written = inputs.map((which) => wrote(network, which)[source]);
        return over === "nothing" ? written[0] : averaged(written, length, width, over);
      }));
    };

    const cutsOf = (words) => {
      const cut = new Uint8Array(edges.length);
      for (const edge of words === "" ? [] : words.split(".")) cut[edge] = 1;
      return cut;
    };
    const wordsOf = (cut) => edges.map((_, edge) => edge).filter((edge) => cut[edge]).join(".");
    const cutAll = (some) => [...some].sort((one, other) => one - other).join(".");
    const named = (list, key, wanted) => list.find((one) => one[key] === wanted);
    // The logits of all prompts where the answer is asked; what the test compares with PyTorch.
    const compute = ({ network, standIn, cut }) => {
      const own = named(networks, "label", network);
      const values = replacement(own, named(standIns, "name", standIn));
      return run(own, graph, { tokens: prompts.clean, given: values, cut: cutsOf(cut) }).logits;
    };
    const measure = (wanted) => {
      const logits = compute(wanted), vocabulary = logits.length / items;
      let difference = 0, answered = 0;
      for (let item = 0; item < items; item += 1) {
        const own = logits.subarray(item * vocabulary, (item + 1) * vocabulary);
        difference += (own[right[item]] - own[wrong[item]]) / items;
        answered += own.indexOf(Math.max(...own)) === right[item];
      }
      return { difference, answered };
    };
    const kept = new Map(), nothing = "", everything = edges.map((_, edge) => edge).join(".");
    const keyOf = ({ network, standIn, cut }) => [network, cut === nothing ? "" : standIn, cut].join("\n");
    const measured = (wanted) => {
      const key = keyOf(wanted);
      if (!kept.has(key)) {
        if (kept.size > 3000) kept.clear();
        kept.set(key, measure(wanted));
      }
      return kept.get(key);
    };
    const faithfulness = (wanted) => {
      const [now, clean, ablated] = [wanted.cut, nothing, everything].map((cut) => measured({ ...wanted, cut }).difference);
      return clean === ablated ? NaN : (now - ablated) / (clean - ablated);
    };

    const scoresOf = ({ network, standIn }) => {
      const row = standIns.findIndex(({ name }) => name === standIn);
      return named(networks, "label", network).scores.subarray(row * edges.length, (row + 1) * edges.length);
    };
    const byStrength = (wanted) => {
      const scores = scoresOf(wanted);
      return edges.map((_, edge) => edge).sort((one, other) => Math.abs(scores[other]) - Math.abs(scores[one]));
    };

    view.choice("network", { label: "Network", value: networks[0].label, options: networks.map(({ label }) => [label, label]) });
    view.choice("standIn", { label: "Stand-in", value: data.first.standIn, options: standIns.map(({ name, label }) => [name, label]) });
    view.keep("cut", data.first.cut, (value) => {
      const known = String(value).split(".").filter((one) => /^\d+$/.test(one) && Number(one) < edges.length);
      return known.length || value === "" ? cutAll(new Set(known.map(Number))) : undefined;
    });
    view.keep("pinned", data.first.pinned, (value) => {
      const edge = /^\d+$/.test(String(value)) ? Number(value) : NaN;
      return edge < edges.length ? edge : undefined;
    });
    // It moves what is cut, and follows it.
    const count = make("input", { type: "range", min: 0, max: edges.length, step: 1 }), told = make("output");
    count.oninput = () => view.set({ cut: cutAll(byStrength(state).slice(Number(count.value))) });
    view.roomFor(told, [`${edges.length} of ${edges.length} edges`]);
    const title = make("span", { textContent: "Keep the strongest" });
    view.root.querySelector(".live-controls").append(make("label", {}, title, count, told));
    const switched = (edge) => {
      const cut = cutsOf(state.cut);
      cut[edge] = 1 - cut[edge];
      return { pinned: edge, cut: wordsOf(cut) };
    };
    view.button("Cut or restore the pinned edge", () => view.set(switched(state.pinned)));
    view.button("Restore all", () => view.set({ cut: nothing }));
    view.button("First view", view.reset);

    let hovered = -1, cut = cutsOf(state.cut), found = [], said = "";
    view.follow(() => {
      const start = performance.now();
      cut = cutsOf(state.cut);
      const remaining = edges.length - cut.reduce((sum, one) => sum + one, 0);
      count.value = remaining;
      told.textContent = `${remaining} of ${edges.length} edges`;
      count.setAttribute("aria-valuetext", told.textContent);
      const own = standIns.findIndex(({ name }) => name === state.standIn);
      const faithful = faithfulness(state);
      let waits = false;
      found = standIns.map(({ name }, i) => {
        const ready = [state.cut, everything].every((one) => kept.has(keyOf({ ...state, standIn: name, cut: one })));
        if (i === own || ready || performance.now() - start < MILLISECONDS) return faithfulness({ ...state, standIn: name });
        waits = true;
        return undefined;
      });
      if (waits) view.redraw();
      const { difference, answered } = measured(state), whole = measured({ ...state, cut: nothing }).difference;
      const { label } = standIns[own], [part, all] = [difference, whole].map((one) => one.toFixed(1).replace("-", MINUS));
      const words = [
        `${remaining} of ${edges.length} edges kept, the others fed with: ${label}.`,
        `Faithfulness ${plain(faithful)}: ${part} of ${all} logits, ${answered} of ${items} prompts answered rightly.`,
        `Pinned: ${names[state.pinned]}, ${cut[state.pinned] ? "cut" : "kept"};`,
        `cutting it alone: ${signed(scoresOf(state)[state.pinned])} logits.`,
      ].join(" ");
      if (words !== said) view.say((said = words));
    });

    // Points on every edge, to find the one under the hand.
    const points = places.paths.map((path) => {
      const at = [];
      for (let i = 0; i + 7 < path.length; i += 6) {
        for (let t = 0; t <= 1; t += 1 / 16) {
          const shares = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t ** 3];
          at.push([0, 1].map((k) => shares.reduce((sum, share, n) => sum + share * path[i + 2 * n + k], 0)));
        }
      }
      return at;
    });
    const edgeAt = (x, y, reach) => {
      let best = -1, least = reach;
      points.forEach((path, edge) => {
        for (const [px, py] of path) {
          const far = Math.hypot(px - x, py - y);
          if (far < least) [best, least] = [edge, far];
        }
      });
      return best;
    };

    const circuit = view.canvas({
      label: "The circuit. Up and down arrow keys go from edge to edge, left and right by strength; space cuts or restores.",
      ...CIRCUIT,
      hover: (at) => { hovered = at ? edgeAt(at.x, at.y, NEAR) : -1; },
      click: ({ x, y, touch }) => {
        const edge = edgeAt(x, y, touch ? 2 * NEAR : NEAR);
        return edge < 0 ? undefined : edge === state.pinned ? switched(edge) : { pinned: edge };
      },
      keys: ({ key }) => {
        hovered = -1;
        if (key === " " || key === "Enter") return switched(state.pinned);
        const step = { ArrowUp: -1, ArrowDown: 1, ArrowLeft: -1, ArrowRight: 1 }[key];
        if (!step) return undefined;
        const order = key === "ArrowUp" || key === "ArrowDown" ? edges.map((_, edge) => edge) : byStrength(state);
        return { pinned: order[(order.indexOf(state.pinned) + step + edges.length) % edges.length] };
      },
      draw: (context, { ink, paper, muted, accents }) => {
        const scores = scoresOf(state), size = scores.map(Math.abs), largest = Math.max(...size) || 1;
        const order = edges.map((_, edge) => edge).sort((one, other) => cut[other] - cut[one] || size[one] - size[other]);
        const stroke = (path, colour, thick, dashes) => {
          context.strokeStyle = colour;
          context.lineWidth = thick;
          context.setLineDash(dashes.map((dash) => dash * thick));
          context.stroke(path);
        };
        const drawn = (edge) => {
          const path = new Path2D(), at = places.paths[edge], pinned = edge === state.pinned, marked = pinned || edge === hovered;
          path.moveTo(at[0], at[1]);
          for (let i = 2; i < at.length; i += 6) path.bezierCurveTo(...at.subarray(i, i + 6));
          const thick = cut[edge] ? CUT_WIDTH : Math.max(NARROWEST, (WIDEST * size[edge]) / largest);
          if (!cut[edge] || marked) stroke(path, pinned ? ink : marked ? muted : paper, thick + 3, []);
          if (cut[edge] && marked) stroke(path, paper, thick + 0.6, []);
          if (cut[edge]) stroke(path, muted, thick, [1, 2.5]);
          else stroke(path, accents[scores[edge] <= 0 ? 0 : 1], thick, scores[edge] <= 0 ? [] : [2.2, 1.1]);
        };
        order.forEach(drawn);
        if (hovered >= 0) drawn(hovered);
        context.setLineDash([]);
        const small = Math.min(CIRCUIT.width / (circuit.clientWidth || CIRCUIT.width), 1.4); // letters stay legible
        context.font = context.font.replace("12px", `${12 * Math.max(small, 1)}px`);
        const [half, tall] = places.half;
        context.textBaseline = "middle";
        for (const { name, at: [x, y], inputs } of places.nodes) {
          context.beginPath();
          context.roundRect(x - half, y - tall, 2 * half, 2 * tall, 10);
          context.fillStyle = paper;
          context.fill();
          context.strokeStyle = ink;
          context.lineWidth = 1.4;
          context.stroke();
          context.fillStyle = ink;
          context.textAlign = "center";
          context.fillText(name, x + (inputs.length ? 4 : 0), y);
          context.textAlign = "left";
          for (const [letter, height] of inputs) context.fillText(letter, x - half + 5, height);
        }
        context.textAlign = "center";
        context.fillText("edges kept, as wide as their score; dotted: cut", CIRCUIT.width / 2, 8);
      },
    });

    const chosenBy = (step) => {
      const place = standIns.findIndex(({ name }) => name === state.standIn) + step;
      return { standIn: standIns[(place + standIns.length) % standIns.length].name };
    };
    view.canvas({
      label: "Score of the edge and faithfulness of the circuit under every stand-in. Up and down arrow keys choose a stand-in.",
      ...ROWS,
      click: ({ y }) => {
        const row = standIns[Math.round((y - FIRST_ROW) / ROW)];
        return row ? { standIn: row.name } : undefined;
      },
      keys: ({ key }) => (key === "ArrowUp" ? chosenBy(-1) : key === "ArrowDown" ? chosenBy(1) : undefined),
      draw: (context, { ink, muted, accents }) => {
        const edge = hovered >= 0 ? hovered : state.pinned, { scores } = named(networks, "label", state.network);
        const low = Math.min(0, ...scores), high = Math.max(0, ...scores), span = high - low || 1;
        const at = (value) => BARS[0] + ((value - low) / span) * (BARS[1] - BARS[0]);
        const along = (value) => DOTS[0] + ((Math.min(Math.max(value, LOW), HIGH) - LOW) / (HIGH - LOW)) * (DOTS[1] - DOTS[0]);
        const bottom = FIRST_ROW + ROW * (standIns.length - 0.5);
        const write = (words, x, y, align) => { context.textAlign = align; context.fillText(words, x, y); };
        const upright = (x, dashes) => {
          context.setLineDash(dashes);
          context.beginPath();
          context.moveTo(x, FIRST_ROW - ROW / 2);
          context.lineTo(x, bottom);
          context.stroke();
          context.setLineDash([]);
        };
        context.textBaseline = "middle";
        context.fillStyle = ink;
        const font = context.font, middle = (BARS[0] + BARS[1] + 44) / 2, end = (DOTS[0] + ROWS.width - 6) / 2;
        write("fed to cut edges", 6, 26, "left");
        write("cut alone, logits", middle, 26, "center");
        write("faithfulness", end, 26, "center");
        context.font = `bold ${font}`;
        write("stand-in", 6, 8, "left");
        write(names[edge], middle, 8, "center");
        write("this circuit", end, 8, "center");
        context.font = font;
        context.strokeStyle = muted;
        context.lineWidth = 1;
        upright(at(0), []);
        for (const level of [0, 1]) {
          upright(along(level), [1, 2]);
          write(level, along(level), bottom + 10, "center");
        }
        const passed = found.includes(undefined) ? "…" : found.filter((value) => value >= PASSES).length;
        write(`faithful (${PASSES} or more) under ${passed} of ${standIns.length}`, 6, bottom + 10, "left");
        standIns.forEach(({ name, label }, i) => {
          const y = FIRST_ROW + ROW * i, value = scores[i * edges.length + edge];
          if (name === state.standIn) {
            context.strokeStyle = ink;
            context.lineWidth = 1.4;
            context.strokeRect(1, y - ROW / 2 + 2, ROWS.width - 2, ROW - 4);
          }
          context.fillStyle = ink;
          write(label, 6, y, "left");
          write(signed(value), BARS[1] + 44, y, "right");
          if (found[i] !== undefined) write(plain(found[i]), ROWS.width - 6, y, "right");
          context.fillStyle = accents[value <= 0 ? 0 : 1];
          context.fillRect(Math.min(at(0), at(value)), y - 7, Math.abs(at(value) - at(0)), 14);
          if (!Number.isFinite(found[i])) return;
          const x = along(found[i]), side = Math.sign(found[i] - Math.min(Math.max(found[i], LOW), HIGH));
          context.fillStyle = ink;
          context.fillRect(Math.min(x, along(0)), y - 1, Math.abs(x - along(0)), 2);
          context.beginPath();
          if (side) {
            context.moveTo(x + 5 * side, y);
            context.lineTo(x - 4 * side, y - 5);
            context.lineTo(x - 4 * side, y + 5);
          } else context.arc(x, y, 4.5, 0, 2 * Math.PI);
          context.fill();
        });
      },
    });
    Object.assign(view, { compute, faithfulness });
    return view.end;
  },
};
