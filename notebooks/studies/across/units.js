// Units of five networks, ranked twice: across by what ablating them does under one stand-in, up under another, or by
// what is read off them.

const FAR = 4, TOP = 10, PLACES = 1e6; // as in the static picture

// The rank of each of some rows, 1 for the least; those that are equal share the middle of theirs.
const ranked = (values, rows, into) => {
  const order = [...rows].sort((one, other) => values[one] - values[other]);
  for (let from = 0; from < order.length;) {
    let to = from + 1;
    while (to < order.length && values[order[to]] === values[order[from]]) to += 1;
    for (let i = from; i < to; i += 1) into[order[i]] = (from + 1 + to) / 2;
    from = to;
  }
};

// Sizes relative to the largest, in whole millionths: what differs by less is tied.
const tied = (effects) => {
  const sizes = effects.map(Math.abs), largest = Math.max(...sizes, 1e-30);
  return sizes.map((size) => Math.round((size / largest) * PLACES));
};

// Kendall's τ-b: NaN where one of the two does not vary.
const kendall = (a, b) => {
  let balance = 0, left = 0, right = 0; // of pairs that are not tied
  for (let i = 1; i < a.length; i += 1) {
    for (let j = 0; j < i; j += 1) {
      const one = Math.sign(a[i] - a[j]), other = Math.sign(b[i] - b[j]);
      balance += one * other;
      left += one * one;
      right += other * other;
    }
  }
  return left && right ? balance / Math.sqrt(left * right) : NaN;
};

// Pearson's correlation of ranks, 0 where one of the two does not vary.
const correlation = (a, b, rows) => {
  const middle = (rows.length + 1) / 2;
  let both = 0, left = 0, right = 0;
  for (const row of rows) {
    both += (a[row] - middle) * (b[row] - middle);
    left += (a[row] - middle) ** 2;
    right += (b[row] - middle) ** 2;
  }
  return left && right ? both / Math.sqrt(left * right) : 0;
};

const MINUS = "\u2212", DASH = "\u2013";
const signed = (value) => {
  const size = Math.abs(value);
  if (size < 1e-12) return "0";
  const words = size >= 9.95 ? size.toFixed(1) : size >= 0.000995 ? size.toPrecision(2) : size.toExponential(1);
  return (value > 0 ? "+" : MINUS) + words.replace("-", MINUS);
};
const plain = (value) => (Number.isFinite(value) ? value.toFixed(2).replace(/^-(?=0\.00$)/, "").replace("-", MINUS) : DASH);

const PLANE = { width: 488, height: 480 }, ROWS = { width: 370, height: 480 }; // as in the static picture
const [LEFT, RIGHT, UPPER, LOWER] = [58, 478, 26, 438];
const FIRST_ROW = 54, ROW = 23, RANKS = [168, 218], EFFECTS = 284, ALIKE = [298, 332];
const NEAR = 14; // pixels

export default {
  render({ model, el }) {
    const view = liveView({ model, el });
    const { data, state } = view;
    const { networks, standIns, predictors, agree } = data;
    const kinds = standIns.map(({ name }) => name);
    const rows = [...kinds, null, ...predictors]; // null: a head
    const labels = Object.fromEntries([...standIns.map(({ name, label }) => [name, label]), ...predictors.map((name) => [name, name])]);
    for (const network of networks) {
      const count = network.unit.length, everyone = Array.from({ length: count }, (_, i) => i);
      const layers = network.layers.map((_, layer) => everyone.filter((unit) => network.layerOf[unit] === layer));
      const column = (values, i) => values.subarray(i * count, (i + 1) * count);
      Object.assign(network, { count, everyone, groups: layers, known: new Map(), called: (unit) => `${network.layers[network.layerOf[unit]]}, unit ${network.unit[unit]}` });
      // By name: what is ranked, and ranks among all units and within layers.
      network.columns = Object.fromEntries(rows.filter(Boolean).map((name) => {
        const read = predictors.includes(name);
        const own = read ? column(network.read, predictors.indexOf(name)) : column(network.effects, kinds.indexOf(name));
        const sizes = own.map(Math.abs), round = read ? sizes : tied(own);
        const all = new Float64Array(count), within = new Float64Array(count);
        ranked(round, everyone, all);
        layers.forEach((layer) => ranked(sizes, layer, within));
        return [name, { values: own, round, all, within }];
      }));
    }
    const networkOf = ({ network }) => networks.find(({ label }) => label === network);

    // How two rankings agree; the test compares it with the study's own functions.
    const compare = ({ network: label, across, up }) => {
      const network = networkOf({ network: label }), key = `${across}\n${up}`;
      if (network.known.has(key)) return network.known.get(key);
      const { columns, count, everyone, groups, layerOf } = network, within = predictors.includes(up);
      const ranks = [across, up].map((name) => columns[name][within ? "within" : "all"]);
      const among = everyone.map((unit) => (within ? groups[layerOf[unit]].length : count));
      const places = ranks.map((own) => own.map((rank, unit) => (rank - 0.5) / among[unit]));
      const far = everyone.map((unit) => Math.abs(ranks[1][unit] - ranks[0][unit]) > among[unit] / FAR);
      const strongest = Math.ceil(count / TOP);
      const first = places.map((own) => [...everyone].sort((one, other) => own[other] - own[one]).slice(0, strongest));
      const shared = first[0].filter((unit) => first[1].includes(unit)).length;
      const change = (unit) => Math.abs(places[1][unit] - places[0][unit]);
      const movers = [...everyone].sort((one, other) => change(other) - change(one));
      const found = { alike: alike(network, across), ranks, among, places, far, strongest, shared, movers };
      network.known.set(key, found);
      return found;
    };
    const alike = (network, across) => {
      if (network.known.has(across)) return network.known.get(across);
      const { columns, groups, count } = network;
      const found = Object.fromEntries(rows.filter(Boolean).map((name) => [name, predictors.includes(name)
        ? groups.reduce((sum, layer) => sum + (correlation(columns[across].within, columns[name].within, layer) * layer.length) / count, 0)
        : kendall(columns[across].round, columns[name].round)]));
      network.known.set(across, found);
      return found;
    };

    const options = standIns.map(({ name, label }) => [name, label]);
    view.choice("network", { label: "Network", value: data.first.network, options: networks.map(({ label, unit }) => [label, `${label}, ${unit.length} units`]) });
    view.choice("across", { label: "Across →", value: data.first.across, options });
    view.choice("up", { label: "Up ↑", value: data.first.up, options: [...options, ...predictors.map((name) => [name, name])] });
    // "induction 12": the unit of a network; where it is another's, the one that moves most is shown.
    view.keep("unit", "", (value) => {
      const [, label, number] = /^(.+) (\d+)$/.exec(String(value)) ?? [];
      const network = networkOf({ network: label });
      return network && Number(number) < network.count ? `${label} ${Number(number)}` : undefined;
    });
    const unitOf = (wanted) => {
      const [, label, number] = /^(.+) (\d+)$/.exec(wanted.unit) ?? [];
      return label === wanted.network ? Number(number) : compare(wanted).movers[0];
    };
    const pick = (unit) => ({ unit: `${state.network} ${unit}` });
    const nextOf = (order, step = 1) => pick(order[(order.indexOf(unitOf(state)) + step + order.length) % order.length]);
    view.button("Next unit that moves", () => view.set(nextOf(compare(state).movers)));
    view.button("First view", view.reset);

    let hovered = -1, target = null, from = null, share = 1, said = "", network = networkOf(state), found = compare(state);
    // Units glide to where they rank now.
    const placeOf = (unit) => [0, 1].map((k) => {
      const to = found.places[k][unit];
      return from ? from[k][unit] + share * (to - from[k][unit]) : to;
    });
    view.follow(() => {
      const now = networkOf(state), next = compare(state);
      if (next !== target) {
        const glides = target && now === network;
        from = glides ? [0, 1].map((k) => Float64Array.from(now.everyone, (unit) => placeOf(unit)[k])) : null;
        [network, found, target, share, hovered] = [now, next, next, glides ? 0 : 1, -1];
        if (glides) view.animate((part) => { share = part; view.redraw(); }, 450);
      }
      const unit = unitOf(state), within = predictors.includes(state.up), agreement = found.alike[state.up];
      const [across, up] = [state.across, state.up].map((name) => `“${labels[name]}”`);
      const moved = found.far.filter(Boolean).length, rank = (k) => `${Math.ceil(found.among[unit] + 1 - found.ranks[k][unit])}`;
      const word = !Number.isFinite(agreement) ? "not comparably" : agreement >= agree ? "alike" : agreement >= 0.3 ? "only partly alike" : "hardly alike";
      const effect = (name) => (name in network.columns && !predictors.includes(name) ? ` (${signed(network.columns[name].values[unit])} ${network.quantity})` : "");
      const words = [
        `${across} and ${up} rank the ${network.count} units of ${network.label} ${word}:`,
        `${within ? "Spearman within layers" : "τ"} ${plain(agreement)};`,
        `${moved} ${moved === 1 ? "moves" : "move"} by more than a quarter of the ranking, ${found.shared} of the ${found.strongest} strongest ${found.shared === 1 ? "is" : "are"} the same.`,
        `${network.called(unit)}: rank ${rank(0)} of ${found.among[unit]} under ${across}${effect(state.across)},`,
        `${rank(1)} under ${up}${state.up === state.across ? "" : effect(state.up)}.`,
      ].join(" ");
      if (words !== said) view.say((said = words));
    });

    const at = (unit) => {
      const [x, y] = placeOf(unit);
      return [LEFT + x * (RIGHT - LEFT), LOWER - y * (LOWER - UPPER)];
    };
    const unitAt = (x, y, reach) => {
      let best = -1, least = reach;
      for (const unit of network.everyone) {
        const [px, py] = at(unit), far = Math.hypot(px - x, py - y);
        if (far < least) [best, least] = [unit, far];
      }
      return best;
    };
    const order = (k) => [...network.everyone].sort((one, other) => found.places[k][one] - found.places[k][other]);
    const rankedBy = (name) => {
      const within = predictors.includes(state.up) ? ", within its layer" : "";
      return (kinds.includes(name) ? `rank under ${labels[name]}` : name) + within;
    };

    const plane = view.canvas({
      label: "Units by rank. Left and right arrow keys go to the next unit across, up and down to the next one up; space to the next one that moves.",
      ...PLANE,
      hover: (at) => { hovered = at ? unitAt(at.x, at.y, NEAR) : -1; },
      click: ({ x, y, touch }) => {
        const unit = unitAt(x, y, touch ? 2 * NEAR : NEAR);
        return unit >= 0 ? pick(unit) : undefined;
      },
      keys: ({ key }) => {
        hovered = -1;
        if (key === " " || key === "Enter") return nextOf(found.movers);
        const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[key];
        return step && nextOf(order(key === "ArrowLeft" || key === "ArrowRight" ? 0 : 1), step);
      },
      draw: (context, { ink, paper, muted, accents }) => {
        const path = (points, close) => {
          context.beginPath();
          points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
          if (close) context.closePath();
        };
        const stroke = (points, dashes) => { context.setLineDash(dashes); path(points); context.stroke(); context.setLineDash([]); };
        const [wide, tall] = [(RIGHT - LEFT) / FAR, (LOWER - UPPER) / FAR];
        context.fillStyle = muted;
        context.globalAlpha = 0.13;
        path([[LEFT, LOWER], [LEFT + wide, LOWER], [RIGHT, UPPER + tall], [RIGHT, UPPER], [RIGHT - wide, UPPER], [LEFT, LOWER - tall]], true);
        context.fill();
        context.globalAlpha = 1;
        context.strokeStyle = muted;
        context.lineWidth = 1;
        context.strokeRect(LEFT, UPPER, RIGHT - LEFT, LOWER - UPPER);
        const edge = found.strongest / network.count;
        const [x, y] = [RIGHT - edge * (RIGHT - LEFT), UPPER + edge * (LOWER - UPPER)];
        for (const ends of [[[LEFT, LOWER], [RIGHT, UPPER]], [[x, UPPER], [x, LOWER]], [[LEFT, y], [RIGHT, y]]]) stroke(ends, [1, 2]);
        const size = network.count < 200 ? 3.5 : 2.5;
        for (const unit of network.everyone) {
          const [px, py] = at(unit), side = Math.sign(found.places[1][unit] - found.places[0][unit]);
          context.fillStyle = accents[found.far[unit] ? 1 : 0];
          if (found.far[unit]) path([[px - size, py + side * size], [px + size, py + side * size], [px, py - side * size]], true);
          else { context.beginPath(); context.arc(px, py, size, 0, 2 * Math.PI); }
          context.fill();
        }
        const picked = unitOf(state);
        context.lineWidth = 2;
        for (const [unit, colour] of [[hovered, muted], [picked, ink]]) {
          if (unit < 0) continue;
          context.strokeStyle = colour;
          context.beginPath();
          context.arc(...at(unit), 7.5, 0, 2 * Math.PI);
          context.stroke();
        }
        const small = Math.min(Math.max(PLANE.width / (plane.clientWidth || PLANE.width), 1), 1.3); // letters stay legible
        context.font = context.font.replace("12px", `${12 * small}px`);
        context.fillStyle = ink;
        context.textBaseline = "middle";
        const write = (words, where, px, py) => { context.textAlign = where; context.fillText(words, px, py); };
        write("dots: units; triangles: moved by more than a quarter", "right", RIGHT, 10);
        write("weakest", "left", LEFT, LOWER + 13);
        write("strongest tenth", "right", RIGHT, LOWER + 13);
        write(`→ ${rankedBy(state.across)}`, "center", (LEFT + RIGHT) / 2, LOWER + 31);
        context.rotate(-Math.PI / 2);
        write("weakest", "left", -LOWER, LEFT - 13);
        write("strongest tenth", "right", -UPPER, LEFT - 13);
        write(`↑ ${rankedBy(state.up)}`, "center", -(LOWER + UPPER) / 2, LEFT - 32);
      },
    });
    const beside = (step) => {
      const named = rows.filter(Boolean);
      return { up: named[(named.indexOf(state.up) + step + named.length) % named.length] };
    };
    view.canvas({
      label: "Rank and effect of the unit by stand-in, and how alike all units are ranked. Up and down arrow keys choose what is compared.",
      ...ROWS,
      click: ({ y }) => {
        const row = rows[Math.round((y - FIRST_ROW) / ROW)];
        return row ? { up: row } : undefined;
      },
      keys: ({ key }) => (key === "ArrowUp" ? beside(-1) : key === "ArrowDown" ? beside(1) : undefined),
      draw: (context, { ink, muted }) => {
        const unit = hovered >= 0 ? hovered : unitOf(state), { columns, count, groups, layerOf } = network;
        const bottom = FIRST_ROW + ROW * (rows.length - 0.5), font = context.font;
        const write = (words, where, x, y) => { context.textAlign = where; context.fillText(words, x, y); };
        const dot = (x, y) => { context.beginPath(); context.arc(x, y, 4, 0, 2 * Math.PI); context.fill(); };
        context.textBaseline = "middle";
        context.strokeStyle = muted;
        context.lineWidth = 1;
        context.setLineDash([1, 2]);
        const head = FIRST_ROW + ROW * rows.indexOf(null);
        for (const x of [...RANKS, ...ALIKE]) {
          context.beginPath();
          for (const [top, end] of [[FIRST_ROW - ROW / 2, head - ROW / 2 + 2], [head + ROW / 2 - 2, bottom]]) {
            context.moveTo(x, top);
            context.lineTo(x, end);
          }
          context.stroke();
        }
        context.setLineDash([]);
        context.fillStyle = context.strokeStyle = ink;
        write("tap one to compare", "left", 18, 25);
        write("rank", "center", (RANKS[0] + RANKS[1]) / 2, 25);
        write("effect", "right", EFFECTS, 25);
        write("τ with →", "center", (ALIKE[0] + ROWS.width - 4) / 2, 25);
        context.font = `bold ${font}`;
        write("stand-in", "left", 18, 8);
        write(network.called(unit), "center", (RANKS[0] + EFFECTS) / 2, 8);
        write("all units", "center", (ALIKE[0] + ROWS.width - 4) / 2, 8);
        write("read off instead", "left", 18, head);
        context.font = font;
        write("in its layer", "center", (RANKS[0] + RANKS[1]) / 2, head);
        write("Spearman", "right", ROWS.width - 4, head);
        rows.forEach((name, i) => {
          if (!name) return;
          const y = FIRST_ROW + ROW * i, own = columns[name], alike = found.alike[name], read = predictors.includes(name);
          if (name === state.across || name === state.up) {
            context.lineWidth = 1.4;
            context.strokeRect(1, y - ROW / 2 + 1.5, ROWS.width - 2, ROW - 3);
            write(name === state.across ? "→" : "↑", "left", 5, y);
          }
          write(labels[name], "left", 18, y);
          const stands = read ? (own.within[unit] - 0.5) / groups[layerOf[unit]].length : (own.all[unit] - 0.5) / count;
          dot(RANKS[0] + stands * (RANKS[1] - RANKS[0]), y);
          if (!read) write(signed(own.values[unit]), "right", EFFECTS, y);
          write(plain(alike), "right", ROWS.width - 4, y);
          if (!Number.isFinite(alike)) return;
          const end = ALIKE[0] + Math.min(Math.max(alike, 0), 1) * (ALIKE[1] - ALIKE[0]);
          context.fillRect(ALIKE[0], y - 1, end - ALIKE[0], 2);
          dot(end, y);
        });
        write("weak", "center", RANKS[0], bottom + 8);
        write("strong", "center", RANKS[1], bottom + 8);
        write("0", "center", ALIKE[0], bottom + 8);
        write("1", "center", ALIKE[1], bottom + 8);
      },
    });
    Object.assign(view, { compare });
    return view.end;
  },
};
