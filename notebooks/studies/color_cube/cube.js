// The colour autoencoder in the page: its latents on a sphere, the cube as it comes out, and the errors.

// The normal distribution function between -SPAN and SPAN, by cubic pieces from its values and slopes: good to 1e-8.
const SPAN = 6, PIECES = 384, WIDTH_OF_PIECE = (2 * SPAN) / PIECES;
const density = (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
const distribution = Float64Array.from({ length: PIECES + 1 }, (_, i) => {
  const x = -SPAN + i * WIDTH_OF_PIECE;
  let term = x, sum = x;
  for (let n = 1; n < 120; n += 1) sum += term *= (x * x) / (2 * n + 1);
  return 0.5 + density(x) * sum;
});
const slopes = Float64Array.from(distribution, (_, i) => WIDTH_OF_PIECE * density(-SPAN + i * WIDTH_OF_PIECE));
const gelu = (x) => {
  if (x <= -SPAN) return 0;
  if (x >= SPAN) return x;
  const place = (x + SPAN) / WIDTH_OF_PIECE, i = Math.floor(place), t = place - i;
  const bend = distribution[i + 1] - distribution[i];
  const cubic = t * (slopes[i] + t * (3 * bend - 2 * slopes[i] - slopes[i + 1] + t * (slopes[i] + slopes[i + 1] - 2 * bend)));
  return x * (distribution[i] + cubic);
};

// Layers of weights [out, in] and biases, GELU between them: rows [n, in] -> rows [n, out].
const forward = (layers, rows, n) => {
  layers.forEach(({ weight, bias }, last) => {
    const [outs, ins] = weight.shape;
    const out = new Float64Array(n * outs);
    for (let i = 0; i < n; i += 1) {
      for (let o = 0; o < outs; o += 1) {
        let sum = bias[o];
        for (let k = 0; k < ins; k += 1) sum += weight[o * ins + k] * rows[i * ins + k];
        out[i * outs + o] = last < layers.length - 1 ? gelu(sum) : sum;
      }
    }
    rows = out;
  });
  return rows;
};

const unit = (rows, width) => {
  const out = Float64Array.from(rows);
  for (let i = 0; i < out.length; i += width) {
    let square = 0;
    for (let k = 0; k < width; k += 1) square += out[i + k] ** 2;
    const length = Math.sqrt(Math.max(square, 1e-24));
    for (let k = 0; k < width; k += 1) out[i + k] /= length;
  }
  return out;
};

// What a removal makes of latents before the norm, [n, K]: those after it.
const removed = (raw, width, { plan, strength, direction }) => {
  if (plan === "ablated") {
    return unit(raw.map((value, i) => (i % width ? value : (1 - strength) * value)), width);
  }
  const out = unit(raw, width);
  if (plan === "none") return out;
  for (let i = 0; i < out.length; i += width) {
    let along = 0;
    for (let k = 0; k < width; k += 1) along += out[i + k] * direction[k];
    if (along <= 0) continue;
    for (let k = 0; k < width; k += 1) out[i + k] -= strength * along * direction[k];
  }
  return out;
};

const clamp = (value) => Math.min(Math.max(value, 0), 1);
const squared = (recon, rgb, i) =>
  ((recon[3 * i] - rgb[3 * i]) ** 2 + (recon[3 * i + 1] - rgb[3 * i + 1]) ** 2 + (recon[3 * i + 2] - rgb[3 * i + 2]) ** 2) / 3;

const css = (rgb, i, mix, paper) => {
  const part = (k) => Math.round(255 * clamp(rgb[3 * i + k]) * (1 - mix) + paper[k] * mix);
  return `rgb(${part(0)} ${part(1)} ${part(2)})`;
};
const channels = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));

const raised = (whole) => [...String(whole)].map((sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]).join("");

const plain = (value) => value.toFixed(3).replace("-0.000", "0.000").replace("-", "−");
const small = (value) => {
  if (Math.abs(value) < 1e-9) return "0";
  if (Math.abs(value) >= 0.01) return plain(value);
  const [digits, power] = value.toExponential(1).split("e");
  return `${digits.replace("-", "−")}\u00a0·\u00a010${raised(Number(power))}`;
};

const STEPS = 20; // of strength, where removals are compared
const NOTABLE = 0.005; // squared error at red, from which on they are
const PANEL = { width: 265, height: 280 };

export default {
  render({ model, el }) {
    const view = liveView({ model, el });
    const { data, state } = view;
    const { seeds, rgb, similarity, hues, values, unlike, gridPoints, decades } = data;
    const count = similarity.length, patches = hues * values, slices = count / patches;
    const width = seeds[0].anchored.encoder.at(-1).bias.length;

    // Each network's latents before the norm, once for each set of colours.
    const encoded = new Map();
    const encode = (network, name, colours) => {
      const sets = encoded.get(network) ?? {};
      encoded.set(network, sets);
      return (sets[name] ??= forward(network.encoder, colours, colours.length / 3));
    };
    const chosen = ({ seed, plan, strength }) => {
      const own = seeds.find(({ label }) => label === seed);
      const found = plan === "post hoc";
      const axis = Float64Array.from({ length: width }, (_, k) => (k ? 0 : 1));
      return { network: found ? own.plain : own.anchored, plan, strength, direction: found ? own.direction : axis };
    };
    const decoded = (network, latents) =>
      forward(network.decoder, latents, latents.length / width).map(clamp);
    // The network under a removal; what the test compares with PyTorch.
    const compute = (wanted, colours = rgb, name = "") => {
      const removal = chosen(wanted);
      const raw = name ? encode(removal.network, name, colours)
        : forward(removal.network.encoder, colours, colours.length / 3);
      const latents = removed(raw, width, removal);
      return { latents, recon: decoded(removal.network, latents) };
    };

    // Pure red, and the colours of the grid that have nothing of it.
    const apart = [1, 0, 0];
    for (let i = 0; i < gridPoints ** 3; i += 1) {
      if (!unlike[i]) continue;
      const part = (power) => (Math.floor(i / gridPoints ** power) % gridPoints) / (gridPoints - 1);
      apart.push(part(2), part(1), part(0));
    }
    const judged = Float64Array.from(apart);
    const errorsOf = (wanted) => {
      const { recon } = compute(wanted, judged, "judged");
      return Float64Array.from({ length: judged.length / 3 }, (_, i) => squared(recon, judged, i));
    };
    const before = new Map(); // errors of each network without a removal
    const damage = (wanted) => {
      const { network } = chosen(wanted);
      if (!before.has(network)) before.set(network, errorsOf({ ...wanted, strength: 0 }));
      const added = errorsOf(wanted).map((error, i) => error - before.get(network)[i]);
      return { red: added[0], elsewhere: added.subarray(1).reduce((sum, one) => sum + one, 0) / (added.length - 1) };
    };
    // What the other removal does elsewhere at the strength where it does as much to red; undefined if it never does.
    const curves = new Map();
    const asMuch = (wanted, red) => {
      const plan = wanted.plan === "post hoc" ? "suppressed" : "post hoc", key = `${wanted.seed}\n${plan}`;
      if (!curves.has(key)) {
        curves.set(key, Array.from({ length: STEPS + 1 }, (_, step) => damage({ ...wanted, plan, strength: step / STEPS })));
      }
      const curve = curves.get(key), end = curve.findIndex((at, step) => step && at.red >= red);
      if (end < 0) return undefined;
      const [low, high] = [curve[end - 1], curve[end]];
      return low.elsewhere + ((red - low.red) / (high.red - low.red)) * (high.elsewhere - low.elsewhere);
    };

    view.choice("seed", { label: "Seed", value: seeds[0].label, options: seeds.map(({ label }) => [label, label]) });
    view.choice("plan", {
      label: "Removal",
      value: "suppressed",
      options: [
        ["suppressed", "suppress the anchored axis"],
        ["ablated", "ablate the anchored axis"],
        ["post hoc", "suppress a direction found afterwards"],
        ["none", "none"],
      ],
    });
    view.slider("strength", { label: "Strength", value: 1, min: 0, max: 1, step: 0.01, text: (now) => `${Math.round(100 * now)} %` });
    const triples = [];
    for (let a = 0; a < width; a += 1) for (let b = a + 1; b < width; b += 1) for (let c = b + 1; c < width; c += 1) triples.push(`${a} ${b} ${c}`);
    view.choice("dimensions", { label: "Dimensions", value: triples[0], options: triples.map((triple) => [triple, triple.replaceAll(" ", ", ")]) });
    view.keep("yaw", data.yaw, (value) => (Number.isFinite(Number(value)) ? ((Number(value) % 360) + 360) % 360 : undefined));
    view.keep("pitch", data.pitch, (value) => (Number.isFinite(Number(value)) ? Math.min(Math.max(Number(value), -90), 90) : undefined));
    view.keep("brushed", "", (value) => {
      const known = String(value).split(".").filter((one) => /^\d+$/.test(one) && Number(one) < count);
      return [...new Set(known.map(Number))].sort((one, other) => one - other).join(".");
    });
    view.button("Turn back", () => {
      const start = { ...state };
      const way = ((data.yaw - start.yaw + 540) % 360) - 180;
      view.animate((share) => view.set({ yaw: start.yaw + share * way, pitch: start.pitch + share * (data.pitch - start.pitch) }));
    });
    view.button("Clear brush", () => view.set({ brushed: "" }));
    view.button("First view", view.reset);

    let now = { latents: null, recon: null }, brushed = new Set();
    view.follow(() => {
      now = compute(state, rgb, "cube");
      brushed = new Set(state.brushed ? state.brushed.split(".").map(Number) : []);
      const { red, elsewhere } = damage(state);
      const mean = [...brushed].reduce((sum, i) => sum + squared(now.recon, rgb, i), 0) / brushed.size;
      const told = brushed.size ? ` ${brushed.size} colour${brushed.size > 1 ? "s" : ""} brushed: mean error ${small(mean)}.` : "";
      const other = state.plan === "post hoc" ? "the anchored axis" : "the direction found afterwards";
      const equal = red >= NOTABLE ? asMuch(state, red) : null;
      const compared = equal === null ? "" : equal === undefined
        ? ` Suppressing ${other} cannot do as much to red.`
        : ` Suppressing ${other}, as strongly as to do the same to red, adds ${small(equal)} there.`;
      view.say(`Squared error added: ${plain(red)} at pure red, ${small(elsewhere)} on average at colours that have nothing of it.${compared}${told}`);
    });

    const turn = ({ dx, dy }) => ({ yaw: state.yaw + 0.6 * dx, pitch: state.pitch + 0.6 * dy });
    const steps = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10] };
    view.canvas({
      label: "Latents of the colours on a sphere. Arrow keys turn it.",
      ...PANEL,
      drag: turn,
      keys: ({ key }) => steps[key] && { yaw: state.yaw + steps[key][0], pitch: state.pitch + steps[key][1] },
      draw: (context, { ink, paper, muted }) => {
        const [yaw, pitch] = [state.yaw, state.pitch].map((degrees) => (degrees * Math.PI) / 180);
        const place = (x, y, z) => {
          const near = -x * Math.sin(yaw) + z * Math.cos(yaw);
          return [x * Math.cos(yaw) + z * Math.sin(yaw), y * Math.cos(pitch) - near * Math.sin(pitch), y * Math.sin(pitch) + near * Math.cos(pitch)];
        };
        const radius = 104, centre = [PANEL.width / 2, 150], paperOf = channels(paper);
        const at = ([x, y]) => [centre[0] + radius * x, centre[1] - radius * y];
        context.strokeStyle = muted;
        context.beginPath();
        context.arc(...centre, radius, 0, 2 * Math.PI);
        context.stroke();
        const dims = state.dimensions.split(" ").map(Number);
        dims.forEach((dim, k) => {
          const end = at(place(...[0, 1, 2].map((one) => (one === k ? 1.12 : 0))));
          const anchored = dim === 0 && state.plan !== "post hoc"; // the other network has no anchor
          context.strokeStyle = anchored ? ink : muted;
          context.lineWidth = anchored ? 2 : 1;
          context.beginPath();
          context.moveTo(...centre);
          context.lineTo(...end);
          context.stroke();
          context.fillStyle = ink;
          context.textAlign = "center";
          context.fillText(dim, end[0] + (end[0] - centre[0]) * 0.07, end[1] + (end[1] - centre[1]) * 0.07 + 4);
        });
        const points = Array.from({ length: count }, (_, i) => [...place(...dims.map((dim) => now.latents[i * width + dim])), i]);
        points.sort((one, other) => one[2] - other[2]);
        for (const [x, y, near, i] of points) {
          const share = (near + 1) / 2, marked = brushed.has(i);
          const haze = brushed.size && !marked ? 0.75 : 0.4 * (1 - share);
          context.beginPath();
          context.arc(...at([x, y]), (marked ? 3 : 1.4) + 3 * share, 0, 2 * Math.PI);
          context.fillStyle = css(rgb, i, haze, paperOf);
          context.fill();
          context.lineWidth = marked ? 1.6 : 0.5;
          context.strokeStyle = marked ? ink : muted;
          context.stroke();
        }
        context.fillStyle = ink;
        context.fillText("latents, by dimension; drag to turn", PANEL.width / 2, 12);
      },
    });

    const PATCH = [20, 11], LEFT = 22, TOP = 20, EVERY = 5 * PATCH[1] + 10;
    const corner = (i) => {
      const slice = slices - 1 - Math.floor(i / patches), row = values - 1 - Math.floor((i % patches) / hues);
      return [LEFT + (i % hues) * PATCH[0], TOP + slice * EVERY + row * PATCH[1]];
    };
    const patchAt = ({ x, y }) => {
      for (let i = 0; i < count; i += 1) {
        const [left, top] = corner(i);
        if (x >= left && x < left + PATCH[0] && y >= top && y < top + PATCH[1]) return i;
      }
      return -1;
    };
    const brush = (some, adds) => {
      const after = new Set(state.brushed ? state.brushed.split(".").map(Number) : []);
      some.forEach((i) => { if (adds) after.add(i); else after.delete(i); });
      return { brushed: [...after].join(".") };
    };
    let adding = true, cursor = -1;
    view.canvas({
      label: "Colours of the cube, reconstructed around true ones. Drag to brush; arrow keys move, space brushes.",
      ...PANEL,
      drag: ({ x, y, dx, dy, first }) => {
        if (first) adding = !brushed.has(patchAt({ x, y }));
        cursor = -1;
        const steps = Math.ceil(Math.max(Math.abs(dx), Math.abs(dy)) / 5) || 1; // a fast hand leaves nothing out
        const passed = Array.from({ length: steps }, (_, k) => patchAt({ x: x - (dx * k) / steps, y: y - (dy * k) / steps }));
        return brush(passed.filter((i) => i >= 0), adding);
      },
      keys: ({ key }) => {
        const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: hues, ArrowDown: -hues };
        if (key === " " || key === "Enter") return cursor < 0 ? {} : brush([cursor], !brushed.has(cursor));
        if (key === "Escape") return { brushed: "" };
        if (!(key in moves)) return undefined;
        cursor = cursor < 0 ? count - patches : (cursor + moves[key] + count) % count;
        return {};
      },
      draw: (context, { ink, muted, paper }) => {
        for (let i = 0; i < count; i += 1) {
          const [left, top] = corner(i), marked = brushed.has(i);
          context.fillStyle = css(now.recon, i, 0, [0, 0, 0]);
          context.fillRect(left, top, ...PATCH);
          context.fillStyle = css(rgb, i, 0, [0, 0, 0]);
          context.fillRect(left + 6, top + 3, PATCH[0] - 12, PATCH[1] - 6);
          if (marked || i === cursor) {
            context.strokeStyle = paper;
            context.lineWidth = 3;
            context.strokeRect(left + 1, top + 1, PATCH[0] - 2, PATCH[1] - 2);
            context.strokeStyle = ink;
            context.lineWidth = 1.2;
            context.setLineDash(i === cursor && !marked ? [3, 2] : []);
            context.strokeRect(left + 1, top + 1, PATCH[0] - 2, PATCH[1] - 2);
            context.setLineDash([]);
          }
        }
        context.fillStyle = ink;
        context.textAlign = "center";
        context.fillText("came out, around true; drag to brush", LEFT + 6 * PATCH[0], 12);
        context.strokeStyle = muted;
        context.lineWidth = 0.6;
        for (let slice = 0; slice < slices; slice += 1) {
          context.strokeRect(LEFT, TOP + slice * EVERY, hues * PATCH[0], values * PATCH[1]);
          context.save();
          context.translate(14, TOP + slice * EVERY + (values * PATCH[1]) / 2);
          context.rotate(-Math.PI / 2);
          context.fillText(`sat. ${((slices - 1 - slice) / (slices - 1)).toFixed(1)}`, 0, 0);
          context.restore();
        }
      },
    });

    view.canvas({
      label: "Squared error of each colour against its similarity to red.",
      ...PANEL,
      draw: (context, { ink, muted, paper }) => {
        const box = { left: 48, right: 258, top: 20, bottom: 240 }, paperOf = channels(paper);
        const [lowest, highest] = decades;
        const heightOf = (decade) => box.bottom - ((Math.min(Math.max(decade, lowest), highest) - lowest) / (highest - lowest)) * (box.bottom - box.top);
        const at = (i) => [box.left + similarity[i] * (box.right - box.left), heightOf(Math.log10(squared(now.recon, rgb, i)))];
        context.strokeStyle = ink;
        context.lineWidth = 1;
        context.beginPath();
        context.moveTo(box.left - 4, box.top);
        context.lineTo(box.left - 4, box.bottom + 4);
        context.lineTo(box.right, box.bottom + 4);
        context.stroke();
        context.fillStyle = ink;
        context.textAlign = "center";
        for (const tick of [0, 0.5, 1]) context.fillText(tick, box.left + tick * (box.right - box.left), box.bottom + 19);
        context.fillText("similarity to red", (box.left + box.right) / 2, box.bottom + 36);
        context.textAlign = "right";
        for (let decade = lowest; decade <= highest; decade += 1) {
          context.fillText(decade ? `10${raised(decade)}` : "1", box.left - 8, heightOf(decade) + 4);
        }
        context.save();
        context.translate(9, (box.top + box.bottom) / 2);
        context.rotate(-Math.PI / 2);
        context.textAlign = "center";
        context.fillText("squared error", 0, 0);
        context.restore();
        const order = Array.from({ length: count }, (_, i) => i).sort((one, other) => brushed.has(one) - brushed.has(other));
        for (const i of order) {
          const marked = brushed.has(i);
          context.beginPath();
          context.arc(...at(i), marked ? 5 : 3.5, 0, 2 * Math.PI);
          context.fillStyle = css(rgb, i, brushed.size && !marked ? 0.75 : 0, paperOf);
          context.fill();
          context.strokeStyle = marked ? ink : muted;
          context.lineWidth = marked ? 1.6 : 0.6;
          context.stroke();
        }
      },
    });

    Object.assign(view, { compute, damage, asMuch });
    return view.end;
  },
};
