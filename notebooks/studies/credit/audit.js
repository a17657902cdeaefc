// The audit in the page: what recorded differences of two losses see of the exact gradient, at every step, precision
// and length of states.

const SAME = -32768; // the code of a change that is exactly 0
const PANEL = { width: 425, height: 400 }, BOX = { left: 62, top: 48, right: 415, bottom: 346 }; // as in the static picture
const DOT = 6, KEY = 100, LOW = -0.5, HIGH = 1.1, MARGIN = 1.06, MORPH = 180; // pixels, ρ, milliseconds
const MINUS = "\u2212", DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const UNITS = { absolute: "step ε, of a fixed length", relative: "step ε, as a share of each state’s length ‖h‖" };

const raised = (power) => [...String(power)].map((one) => (one === "-" ? "⁻" : DIGITS[one])).join("");
// Two digits: 0.016, 12, 3.8·10⁻⁹.
const written = (value) => {
  const [digits, power] = value.toExponential(1).split("e").map(Number);
  if (power >= -3 && power < 4) return String(Number(value.toPrecision(2)));
  return digits === 1 ? `10${raised(power)}` : `${digits}·10${raised(power)}`;
};
const plain = (rho) => (Number.isNaN(rho) ? "ρ undefined" : `ρ = ${rho.toFixed(3).replace(/^-(?=0\.000$)/, "").replace("-", MINUS)}`);

// Pearson's correlation; NaN where one side does not vary.
const pearson = (xs, ys) => {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [middle, centre] = [mean(xs), mean(ys)];
  let xx = 0, yy = 0, xy = 0;
  for (let i = 0; i < xs.length; i += 1) {
    const [x, y] = [xs[i] - middle, ys[i] - centre];
    xx += x * x;
    yy += y * y;
    xy += x * y;
  }
  return xx && yy ? xy / Math.sqrt(xx * yy) : NaN;
};

// Ticks 1, 2 or 5 times a power of ten apart, about three each way.
const ticks = (most) => {
  const rough = most / 3.2, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
  return [-3, -2, -1, 0, 1, 2, 3].map((i) => i * step).filter((tick) => Math.abs(tick) <= most);
};
const told = (tick) => (Math.abs(tick) >= 1e4 ? (tick < 0 ? MINUS : "") + written(Math.abs(tick)) : String(Number(tick.toPrecision(2))).replace("-", MINUS));

const shape = (context, marker, x, y, size) => {
  context.beginPath();
  if (marker === "s") context.rect(x - size / 2, y - size / 2, size, size);
  else if (marker === "D") {
    const half = size / Math.SQRT2;
    context.moveTo(x, y - half);
    for (const [across, down] of [[half, 0], [0, half], [-half, 0]]) context.lineTo(x + across, y + down);
    context.closePath();
  } else context.arc(x, y, size / 2, 0, 2 * Math.PI);
};
const line = (context, ...points) => {
  context.beginPath();
  points.forEach(([x, y]) => context.lineTo(x, y));
  context.stroke();
};

export default {
  render({ model, el }) {
    const view = liveView({ model, el });
    const { data, state } = view;
    const { probed, precisions, lowest, highest, longest, first } = data;
    const ks = Array.from({ length: highest - lowest + 1 }, (_, i) => lowest + i);
    const stepOf = (k) => data.step * 4 ** k;
    const pairOf = ({ network, layer }) => probed.find((one) => one.network === network && one.layer === layer);
    const precisionOf = ({ precision }) => precisions.find(({ name }) => name === precision);

    // What a difference measures along each probe, per unit of length and at states as long as trained. A fixed step at
    // states 4 times as long is one of a quarter of its length at these; a share of each state is what it was.
    const compute = (wanted) => {
      const { derivative, tables } = pairOf(wanted), table = tables[wanted.mode][wanted.precision];
      const k = Math.round(wanted.step) - (wanted.mode === "absolute" ? Math.round(wanted.length) : 0);
      const row = k - table.lowest, count = derivative.length, measured = new Float64Array(count);
      if (row < 0) return { measured, rho: NaN, same: count, amounts: 1 };
      const codes = new Int16Array(table.codes.buffer, 2 * row * count, count);
      let same = 0;
      for (let i = 0; i < count; i += 1) {
        if (codes[i] !== SAME) measured[i] = derivative[i] + codes[i] * table.scales[row];
        if (measured[i] === 0) same += 1;
      }
      return { measured, rho: pearson(derivative, measured), same, amounts: table.amounts[row] };
    };

    view.choice("mode", {
      label: "Step",
      value: first.mode,
      options: [["absolute", "of a fixed length, ε"], ["relative", "a share of each state, ε ‖h‖"]],
    });
    const stepIn = ({ mode, step }) => `${written(stepOf(Math.round(step)))}${mode === "relative" ? " ‖h‖" : ""}`;
    const lengthOf = (wanted) => pairOf(wanted).length * 4 ** Math.round(wanted.length);
    const lengthIn = (wanted) => {
      const times = 4 ** Math.round(wanted.length);
      return `${written(lengthOf(wanted))}, ${times > 1 ? `×${written(times)}` : "as trained"}`;
    };
    view.slider("step", { label: "ε", value: first.step, min: lowest, max: highest, step: 1 });
    view.slider("length", { label: "Length ‖h‖", value: first.length, min: 0, max: longest, step: 1 });
    const sliders = [...view.root.querySelectorAll("input[type=range]")];
    const beside = sliders.map((slider) => slider.nextElementSibling), { networks, layers } = data;
    const from = (low, high) => Array.from({ length: high - low + 1 }, (_, i) => low + i);
    view.roomFor(beside[0], ["absolute", "relative"].flatMap((mode) => from(lowest, highest).map((step) => stepIn({ mode, step }))));
    view.roomFor(beside[1], networks.flatMap((network) => layers.flatMap((layer) =>
      from(0, longest).map((length) => lengthIn({ network, layer, length })))));
    const last = data.layers.at(-1), place = (layer) => (layer ? (layer === last ? `${layer}, into the last block` : layer) : "0, the embedding");
    view.choice("precision", { label: "Precision", value: first.precision, options: precisions.map(({ name }) => [name, name]) });
    view.choice("network", { label: "Network", value: first.network, options: data.networks.map((name) => [name, name]) });
    view.choice("layer", { label: "Layer", value: first.layer, options: data.layers.map((layer) => [layer, place(layer)]) });
    view.button("States as trained", () => view.set({ length: 0 }));
    view.button("First view", view.reset);

    // Where dots are and where they go, in units of the true changes' SD; a new state is reached by a short way.
    let now = null, key = "", way = null, extent = [1, 1];
    const extents = (x, y) => {
      const across = MARGIN * (Math.max(...x.map(Math.abs)) || 1);
      return [across, Math.max(MARGIN * Math.max(...y.map(Math.abs)), across)];
    };
    const inSDs = ({ derivative }, values) => {
      const size = Math.sqrt(derivative.reduce((sum, value) => sum + value * value, 0) / derivative.length) || 1;
      return Float64Array.from(values, (value) => value / size);
    };
    const keyOf = ({ network, layer, precision, mode, step, length }) => [network, layer, precision, mode, step, length].join("\n");
    const curves = new Map();
    const curveOf = (wanted) => {
      const { network, layer, mode, length } = wanted, name = [network, layer, mode, mode === "absolute" ? length : ""].join("\n");
      if (!curves.has(name)) {
        curves.set(name, precisions.map(({ name: precision }) => ks.map((step) => compute({ ...wanted, precision, step }).rho)));
      }
      return curves.get(name);
    };
    const shares = (share) => { way = { ...way, share }; view.redraw(); };
    view.follow(() => {
      [stepIn, lengthIn].forEach((words, i) => { // they depend on more than their slider
        beside[i].textContent = words(state);
        sliders[i].setAttribute("aria-valuetext", words(state));
      });
      if (keyOf(state) === key) return;
      const before = key && now;
      key = keyOf(state);
      const pair = pairOf(state), found = compute(state);
      now = { ...found, x: inSDs(pair, pair.derivative), y: inSDs(pair, found.measured), count: found.measured.length };
      now.extent = extents(now.x, now.y);
      way = { from: before ? { x: way.x, y: way.y, extent } : now, x: now.x, y: now.y, share: 1 };
      if (before) view.animate(shares, MORPH);
      const { roundoff } = precisionOf(state), length = lengthOf(state), step = stepOf(Math.round(state.step));
      const relative = state.mode === "relative", share = relative ? step : step / length, changed = now.count - now.same;
      const amounts = now.amounts - (now.same > 0);
      view.say([
        `${state.network}, layer ${state.layer}, states of length ${written(length)}; in ${state.precision} a step of ${stepIn(state)},`,
        `which is ${relative ? written(step * length) : `${written(share)} ‖h‖`}, or ${written(share / roundoff)} roundoffs.`,
        Number.isNaN(now.rho) ? "The exact gradient, right by definition, has no score."
          : `The exact gradient, right by definition, scores ${plain(now.rho)}.`,
        changed ? `The loss changes at ${changed} of ${now.count} probes, by ${amounts === 1 ? "one amount" : `${amounts} different amounts`}.`
          : `The loss changes at none of ${now.count} probes, to the last bit: nothing is measured.`,
      ].join(" "));
    });

    const across = (share) => BOX.left + share * (BOX.right - BOX.left);
    const up = (share) => BOX.bottom - share * (BOX.bottom - BOX.top);
    // Axes, their ticks [share, words] and names; what stands above.
    const frame = (context, ink, { bottom, left, below, beside, title }) => {
      context.font = "13.5px system-ui, 'DejaVu Sans', sans-serif";
      context.textBaseline = "middle";
      [context.strokeStyle, context.fillStyle, context.lineWidth] = [ink, ink, 1];
      line(context, [BOX.left, BOX.top], [BOX.left, BOX.bottom], [BOX.right, BOX.bottom]);
      context.textAlign = "center";
      for (const [at, words] of bottom) {
        line(context, [across(at), BOX.bottom], [across(at), BOX.bottom + 4]);
        context.fillText(words, across(at), BOX.bottom + 15);
      }
      context.fillText(below, across(0.5), BOX.bottom + 40);
      context.textAlign = "right";
      for (const [at, words] of left) {
        line(context, [BOX.left, up(at)], [BOX.left - 4, up(at)]);
        context.fillText(words, BOX.left - 7, up(at));
      }
      context.save();
      context.translate(9, up(0.5));
      context.rotate(-Math.PI / 2);
      context.textAlign = "center";
      context.fillText(beside, 0, 0);
      context.restore();
      context.textAlign = "left";
      context.font = `bold ${context.font}`;
      context.fillText(title, BOX.left, 12);
      context.font = context.font.replace("bold ", "");
    };
    const clipped = (context, paint) => {
      context.save();
      context.beginPath();
      context.rect(BOX.left, BOX.top, BOX.right - BOX.left, BOX.bottom - BOX.top);
      context.clip();
      paint();
      context.restore();
    };

    view.canvas({
      label: "Measured against true changes of the loss, a dot for each probe.",
      ...PANEL,
      draw: (context, { ink, muted, accents }) => {
        const { from, share } = way, { marker, accent } = precisionOf(state);
        const mixed = (one, other) => one.map((value, i) => value + share * (other[i] - value));
        // Extents go by their logarithms: from 6 to 6,000 no stretch of the way is lost.
        extent = mixed(from.extent.map(Math.log), now.extent.map(Math.log)).map(Math.exp);
        [way.x, way.y] = share < 1 && from.x.length === now.x.length ? [mixed(from.x, now.x), mixed(from.y, now.y)] : [now.x, now.y];
        const [wide, high] = extent, atX = (x) => across((x / wide + 1) / 2), atY = (y) => up((y / high + 1) / 2);
        clipped(context, () => {
          [context.strokeStyle, context.lineWidth] = [muted, 1];
          line(context, [BOX.left, up(0.5)], [BOX.right, up(0.5)]);
          context.strokeStyle = ink;
          context.setLineDash([4, 2]);
          line(context, [atX(-wide), atY(-wide)], [atX(wide), atY(wide)]);
          context.setLineDash([]);
          context.strokeStyle = context.fillStyle = accents[accent];
          for (const hollow of [true, false]) {
            context.globalAlpha = hollow ? 1 : 0.65;
            for (let i = 0; i < now.count; i += 1) {
              if ((now.measured[i] === 0) !== hollow) continue;
              shape(context, marker, atX(way.x[i]), atY(way.y[i]), DOT);
              if (hollow) context.stroke(); else context.fill();
            }
          }
          context.globalAlpha = 1;
        });
        frame(context, ink, {
          bottom: ticks(wide).map((tick) => [(tick / wide + 1) / 2, told(tick)]),
          left: ticks(high).map((tick) => [(tick / high + 1) / 2, told(tick)]),
          below: "true change of the loss, in its SDs",
          beside: "measured change, in the same",
          title: plain(now.rho),
        });
        context.fillText(`no change at ${now.same} of ${now.count} probes (hollow)`, BOX.left, 33);
      },
    });

    // Half a step's room on both sides.
    const along = (k) => (k - lowest + 0.5) / (highest - lowest + 1);
    const kAt = (x) => Math.min(Math.max(Math.round(((x - BOX.left) / (BOX.right - BOX.left)) * ks.length - 0.5) + lowest, lowest), highest);
    const height = (rho) => (Math.min(Math.max(Number.isNaN(rho) ? 0 : rho, LOW), HIGH) - LOW) / (HIGH - LOW);
    const moves = { ArrowLeft: ["step", -1], ArrowRight: ["step", 1], ArrowDown: ["length", -1], ArrowUp: ["length", 1] };
    let before = state.step;
    const scores = view.canvas({
      label: "The exact gradient’s score against the step. Left and right arrow keys move the step, up and down the length of states.",
      ...PANEL,
      drag: ({ x, first: down }) => {
        if (down) before = state.step;
        return { step: kAt(x) };
      },
      keys: ({ key: pressed }) => moves[pressed] && { [moves[pressed][0]]: Math.round(state[moves[pressed][0]]) + moves[pressed][1] },
      draw: (context, { ink, paper, muted, accents }) => {
        const all = curveOf(state), chosen = precisions.indexOf(precisionOf(state)), [low, high] = pairOf(state).chance;
        clipped(context, () => {
          [context.fillStyle, context.globalAlpha] = [muted, 0.3];
          context.fillRect(BOX.left, up(height(high)), BOX.right - BOX.left, up(height(low)) - up(height(high)));
          context.globalAlpha = 1;
          [context.strokeStyle, context.lineWidth] = [ink, 1];
          line(context, [across(along(Math.round(state.step))), BOX.top], [across(along(Math.round(state.step))), BOX.bottom]);
          context.setLineDash([4, 2]);
          line(context, [BOX.left, up(height(1))], [BOX.right, up(height(1))]);
          context.setLineDash([]);
          for (const i of precisions.map((_, n) => n).sort((one, other) => (one === chosen) - (other === chosen))) {
            const points = ks.map((k, n) => [across(along(k)), up(height(all[i][n]))]);
            context.strokeStyle = context.fillStyle = accents[precisions[i].accent];
            context.lineWidth = i === chosen ? 2.4 : 1;
            line(context, ...points);
            context.lineWidth = 1;
            points.forEach(([x, y], n) => {
              shape(context, precisions[i].marker, x, y, DOT + (i === chosen));
              context.fillStyle = Number.isNaN(all[i][n]) ? paper : context.strokeStyle;
              context.fill();
              if (Number.isNaN(all[i][n])) context.stroke();
            });
          }
        });
        const at = (power) => along(Math.log(10 ** power / data.step) / Math.log(4));
        frame(context, ink, {
          bottom: [-7, -6, -5, -4, -3, -2, -1, 0].filter((power) => at(power) >= 0 && at(power) <= 1).map((power) => [at(power), power ? `10${raised(power)}` : "1"]),
          left: [0, 0.5, 1].map((tick) => [height(tick), tick.toFixed(1)]),
          below: UNITS[state.mode],
          beside: "ρ of the exact gradient",
          title: "ρ at every step; grey: chance",
        });
        precisions.forEach(({ name, marker, accent }, i) => {
          context.fillStyle = accents[accent];
          shape(context, marker, BOX.left + 5 + KEY * i, 33, DOT);
          context.fill();
          context.fillStyle = ink;
          context.fillText(name, BOX.left + 14 + KEY * i, 33);
        });
      },
    });

    scores.style.touchAction = "pan-y"; // the page scrolls under a finger, and the step is what it was
    scores.addEventListener("pointercancel", () => view.set({ step: before }));
    Object.assign(view, { compute, pearson });
    return view.end;
  },
};
