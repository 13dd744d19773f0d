"use strict";

// The token is the part of the address after #, which the browser sends to no server by itself.
const token = location.hash.slice(1);
const LARGEST_SEED = 2 ** 31 - 1;
const find = (id) => document.getElementById(id);

/** What the picture is made of; sent with each request. */
const state = {
  seed: 0, label: null, truncation: null, mixSeed: null, crossover: null, moves: {}, projection: null,
  picture: null, target: null, reference: null,
};
let model = null;

// -- the server --------------------------------------------------------------------------------------------------------

async function ask(path, { method = "GET", body = null } = {}) {
  let answer;
  try {
    answer = await fetch(path, { method, body, headers: { Authorization: `Bearer ${token}` } });
  } catch {
    throw new Error("The server does not answer. If gantry play has ended, start it again and open the new address.");
  }
  if (answer.ok) return answer;
  let told = `The server answered with status ${answer.status}.`;
  try {
    told = (await answer.json()).error;
  } catch { /* not JSON: the status says enough */ }
  throw new Error(told);
}

const send = (path, values) => ask(path, { method: "POST", body: JSON.stringify(values) });

async function upload(file, use) {
  say("");
  return (await ask(`api/pictures?use=${use}`, { method: "POST", body: file })).json();
}

const pictureAddress = async (number) => URL.createObjectURL(await (await ask(`api/pictures/${number}`)).blob());

function say(text) {
  find("message").textContent = text;
  find("message").hidden = !text;
}

// -- elements ----------------------------------------------------------------------------------------------------------

function make(tag, values = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(values)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const card = (title, extra, ...children) =>
  make("section", { className: "card" },
    make("div", { className: "head" }, make("h2", { textContent: title }), ...(extra ? [extra] : [])), ...children);

/** A labelled slider. `show` turns its value into text, `change` gets the value. */
function slider(id, label, { low, high, step, value, show = (of) => of.toFixed(2), change }) {
  const output = make("output", { htmlFor: id, textContent: show(value) });
  const input = make("input", { type: "range", id, min: low, max: high, step, value });
  input.addEventListener("input", () => {
    output.textContent = show(input.valueAsNumber);
    change(input.valueAsNumber);
  });
  const row = make("div", { className: "row" }, make("label", { htmlFor: id, textContent: label }), input, output);
  row.set = (to) => {
    input.value = to;
    output.textContent = show(input.valueAsNumber);
  };
  return row;
}

/** A seed with a button that draws another. */
function seedRow(id, value, change) {
  const input = make("input", { type: "number", id, min: 0, max: LARGEST_SEED, step: 1, value });
  const set = (seed) => {
    if (Number.isInteger(seed) && seed >= 0 && seed <= LARGEST_SEED) change(seed);
    else say(`The seed must be a whole number from 0 to ${LARGEST_SEED}.`);
  };
  input.addEventListener("change", () => set(input.valueAsNumber));
  const draw = () => {
    input.value = Math.floor(Math.random() * 100000);
    set(input.valueAsNumber);
  };
  return make("div", { className: "row" }, make("label", { htmlFor: id, textContent: "Seed" }), input,
    make("button", { type: "button", textContent: "Random", onclick: draw }));
}

/** Buttons of which one is pressed. */
function choices(options, value, change) {
  const buttons = options.map(([of, text]) => {
    const button = make("button", { type: "button", textContent: text, value: of });
    button.setAttribute("aria-pressed", of === value);
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", other === button);
      change(of);
    });
    return button;
  });
  return make("div", { className: "choices" }, ...buttons);
}

/** A place to drop a picture, or to choose one with a click. */
function dropZone(id, text, use) {
  const input = make("input", { type: "file", id, accept: "image/*" });
  const label = make("span", { textContent: text });
  const zone = make("label", { className: "drop" }, input, label);
  const take = async (file) => {
    if (!file) return;
    label.textContent = `Reading ${file.name} ...`;
    try {
      await use(file);
    } catch (error) {
      say(error.message);
    }
    label.textContent = text;
    input.value = ""; // the same file can be chosen again
  };
  input.addEventListener("change", () => take(input.files[0]));
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  return zone;
}

// -- the picture -------------------------------------------------------------------------------------------------------

let wanted = false;
let busy = false;

/** Make the picture of the current state. While one is made, only the newest state waits. */
async function refresh() {
  wanted = true;
  if (busy) return;
  busy = true;
  while (wanted) {
    wanted = false;
    const made = { caption: caption(), file: fileName() }; // of this request: the state may change before the answer
    try {
      show(await (await (model.noise ? send("api/sample", sampleRequest()) : send("api/translate", translateRequest()))).blob(), made);
      say("");
    } catch (error) {
      say(error.message);
    }
  }
  busy = false;
}

function sampleRequest() {
  const moves = Object.fromEntries(Object.entries(state.moves).filter(([, of]) => of.some((amount) => amount !== 0)));
  const mixed = state.mixSeed === null ? {} : { mix_seed: state.mixSeed, crossover: state.crossover };
  return {
    seed: state.seed, label: state.label, truncation: state.truncation, projection: state.projection, moves, ...mixed,
  };
}

function translateRequest() {
  return { picture: state.picture, target: state.target, seed: state.seed, reference: state.reference };
}

function show(blob, made) {
  const picture = find("picture");
  const before = picture.src;
  picture.src = URL.createObjectURL(blob);
  if (before) URL.revokeObjectURL(before);
  const link = find("download");
  link.href = picture.src;
  link.download = made.file;
  link.setAttribute("aria-disabled", "false");
  find("caption").textContent = made.caption;
  document.body.dataset.pictures = Number(document.body.dataset.pictures || 0) + 1;
}

const targetName = () => model.translation.targets.find((of) => of.index === state.target)?.name;

function caption() {
  if (model.translation) return ["Translation", targetName()].filter(Boolean).join(": ");
  const parts = [state.projection === null ? `seed ${state.seed}` : "your picture, projected"];
  if (state.label !== null) parts.push(`class ${model.classes[state.label]}`);
  if (state.mixSeed !== null) parts.push(`mixed with seed ${state.mixSeed}`);
  if (Object.values(state.moves).flat().some((amount) => amount !== 0)) parts.push("moved");
  return parts.join(" · ");
}

function fileName() {
  const of = model.translation ? [targetName() || "translation"]
    : [state.projection === null ? `seed${state.seed}` : "projection"];
  return `${[model.name, ...of].join("-").replace(/[^\w.-]+/g, "_")}.png`;
}

// -- generators from noise ---------------------------------------------------------------------------------------------

function addNoiseControls(noise) {
  find("left").append(projectionCard(noise));
  find("controls").append(pictureCard(noise), directionsCard(noise));
  if (noise.layers) find("controls").append(mixingCard(noise));
}

function pictureCard(noise) {
  const seed = seedRow("seed", state.seed, (value) => {
    state.seed = value;
    if (state.projection !== null) find("leave").click();
    else refresh();
  });
  const rows = [seed];
  if (model.classes.length) {
    const options = [["", "any"], ...model.classes.map((name, index) => [index, name])];
    const select = make("select", { id: "label" },
      ...options.map(([value, text]) => make("option", { value, textContent: text })));
    select.addEventListener("change", () => {
      state.label = select.value === "" ? null : Number(select.value);
      refresh();
    });
    rows.push(make("div", { className: "row wide" }, make("label", { htmlFor: "label", textContent: "Class" }), select));
  }
  const { low, high, step } = noise.truncation;
  rows.push(slider("truncation", "Truncation", {
    low, high, step, value: high,
    show: (value) => (value >= high ? "off" : value.toFixed(2)),
    change: (value) => {
      state.truncation = value >= high ? null : value;
      refresh();
    },
  }));
  return card("Picture", null, ...rows);
}

function directionsCard(noise) {
  const names = { all: "All layers", coarse: "Coarse", middle: "Middle", fine: "Fine" };
  let part = "all";
  for (const of of noise.parts) state.moves[of] = Array(noise.directions).fill(0);
  const rows = Array.from({ length: noise.directions }, (_, index) =>
    slider(`direction-${index}`, `Direction ${index + 1}`, {
      low: -noise.reach, high: noise.reach, step: 0.1, value: 0, show: (value) => value.toFixed(1),
      change: (value) => {
        state.moves[part][index] = value;
        refresh();
      },
    }));
  const fill = () => rows.forEach((row, index) => row.set(state.moves[part][index]));
  const reset = make("button", {
    type: "button", textContent: "Reset",
    onclick: () => {
      for (const of of noise.parts) state.moves[of].fill(0);
      fill();
      refresh();
    },
  });
  const parts = choices(noise.parts.map((of) => [of, names[of]]), part, (of) => {
    part = of;
    fill();
  });
  return card("Directions", reset, ...(noise.parts.length > 1 ? [parts] : []), ...rows,
    make("p", { className: "hint", textContent: "Found in the weights; the first one changes the picture most." }));
}

function mixingCard(noise) {
  state.crossover = Math.max(Math.floor(noise.layers / 3), 1);
  let other = 1;
  const box = make("input", { type: "checkbox", id: "mix", ariaLabel: "Mix styles" });
  const inside = make("div", { className: "card-body", hidden: true },
    seedRow("mix-seed", other, (value) => {
      other = state.mixSeed = value;
      refresh();
    }),
    slider("crossover", "From layer", {
      low: 1, high: noise.layers - 1, step: 1, value: state.crossover,
      show: (value) => `${value + 1} of ${noise.layers}`,
      change: (value) => {
        state.crossover = value;
        refresh();
      },
    }));
  box.addEventListener("change", () => {
    inside.hidden = !box.checked;
    state.mixSeed = box.checked ? other : null;
    refresh();
  });
  return card("Style mixing", box, inside,
    make("p", { className: "hint", textContent: "The styles of later layers come from another seed." }));
}

function projectionCard(noise) {
  let newest = 0;
  let starting = false;
  const bar = make("progress", { id: "progress", max: noise.steps, value: 0, hidden: true });
  const told = make("p", {
    className: "hint", id: "projection",
    textContent: `Finds the closest picture that this generator can make, by its pixels: ${noise.steps} steps in ${noise.space}.`,
  });
  const leave = make("button", {
    type: "button", id: "leave", textContent: "Back to the seed", hidden: true,
    onclick: () => {
      newest += 1; // the answer of a search in progress is no longer wanted
      state.projection = null;
      bar.hidden = leave.hidden = find("given").hidden = true;
      find("truncation").disabled = false;
      if (find("label")) find("label").disabled = false;
      refresh();
    },
  });
  const zone = dropZone("project", "Drop a picture here, or click to choose one", async (file) => {
    const { picture } = await upload(file, "project");
    const label = state.label;
    let projection;
    starting = true; // the server cancels the search in progress before it answers
    try {
      ({ projection } = await (await send("api/projections", { picture, label, steps: noise.steps })).json());
    } finally {
      starting = false;
    }
    const mine = (newest += 1); // not before: a file that is refused leaves the search in progress
    await showGiven(picture);
    if (mine !== newest) return;
    bar.hidden = leave.hidden = false;
    bar.value = 0;
    follow(projection, mine, label);
  });
  async function follow(projection, mine, label) {
    try {
      while (mine === newest) {
        const now = await (await ask(`api/projections/${projection}`)).json();
        if (mine !== newest) return;
        bar.value = now.done;
        if (now.state === "failed" && !starting) throw new Error(now.error);
        if (now.state === "done") {
          bar.hidden = true;
          told.textContent = `${now.distance.toFixed(1)} grey levels from your picture; the search started at ` +
            `${now.before.toFixed(1)}.`;
          state.projection = projection;
          find("truncation").disabled = noise.space === "z"; // it acts on draws of z, not on this one
          if (label !== null && noise.space === "w") { // the styles that were found have the class already
            find("label").value = state.label = label;
            find("label").disabled = true;
          }
          await refresh();
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, 250));
      }
    } catch (error) {
      if (mine !== newest) return;
      bar.hidden = true;
      say(error.message);
    }
  }
  return card("Start from your picture", leave, zone, bar, told);
}

// -- generators from pictures ------------------------------------------------------------------------------------------

function addTranslationControls(translation) {
  const translate = () => (state.picture === null ? null : refresh());
  const zone = dropZone("translate", "Drop a picture here, or click to choose one", async (file) => {
    state.picture = (await upload(file, "translate")).picture;
    await showGiven(state.picture);
    await refresh();
  });
  const hint = translation.hint ? [make("p", { className: "hint", textContent: translation.hint })] : [];
  find("controls").append(card("Your picture", null, zone, ...hint));
  if (translation.targets.length) {
    state.target = translation.targets.at(-1).index;
    const options = translation.targets.map((of) => [of.index, of.name]);
    const row = choices(options, state.target, (of) => {
      state.target = of;
      translate();
    });
    find("controls").append(card(translation.attributes ? "Attribute to switch" : "Target", null, row));
  }
  if (translation.seeded || translation.reference) find("controls").append(variationCard(translation, translate));
}

function variationCard(translation, translate) {
  const rows = [seedRow("seed", state.seed, (value) => {
    state.seed = value;
    state.reference = null;
    translate();
  })];
  if (translation.reference) {
    const zone = dropZone("reference", "Or take the style of a picture: drop it here", async (file) => {
      state.reference = (await upload(file, "reference")).picture;
      translate();
    });
    rows.push(zone, make("p", { className: "hint", textContent: "A picture of the target domain. Another seed replaces it." }));
  }
  return card(translation.reference ? "Style" : "Variation", null, ...rows);
}

async function showGiven(number) {
  const picture = find("given-picture");
  const before = picture.src;
  picture.src = await pictureAddress(number);
  if (before) URL.revokeObjectURL(before);
  find("given").hidden = false;
}

// -- start -------------------------------------------------------------------------------------------------------------

async function start() {
  window.addEventListener("hashchange", () => location.reload());
  // A picture that is dropped beside a zone must not replace the page.
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
  try {
    model = await (await ask("api/model")).json();
  } catch (error) {
    say(error.message);
    return;
  }
  document.title = `${model.name} · gantry play`;
  find("name").textContent = model.name;
  find("about").textContent = `${model.family} · ${model.width} × ${model.height} · generator ${model.digest.slice(0, 12)}`;
  find("stage").classList.add(model.noise ? "noise" : "translation");
  find("stage").classList.toggle("small", Math.max(model.width, model.height) < 256);
  find("picture").width = model.width;
  find("picture").height = model.height;
  if (model.noise) addNoiseControls(model.noise);
  else addTranslationControls(model.translation);
  find("main").hidden = false;
  if (model.noise) await refresh();
  else find("caption").textContent = "The translation appears here.";
}

start();
