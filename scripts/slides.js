// Arrows, Space and the keys of a presenter's remote go through all slides; S opens the speaker's notes, O an overview.
Reveal.initialize({
  width: 1280, height: 720, margin: 0, center: false, hash: true, transition: "none", backgroundTransition: "none",
  controls: false, progress: true, navigationMode: "linear", pdfSeparateFragments: false, plugins: [RevealNotes],
});

// Sets the size of a slide's letters (--fit) and of its tables, formulas and code (--grow). What is wider than its room
// gets smaller by itself (--own); code that nobody could read any more is wrapped. Says whether all fits in height.
function fits(body, fit, grow) {
  const parts = [...body.querySelectorAll(".formula, pre, table")];
  body.style.display = "none";  // or else some browsers keep the heights that formulas had before
  body.style.setProperty("--fit", fit);
  body.style.setProperty("--grow", grow);
  for (const part of parts) {
    part.style.setProperty("--own", 1);
    part.classList.remove("wrapped");
  }
  void body.offsetHeight;
  body.style.display = "";
  const room = part => part.closest(".beside > div, .body").clientWidth - 2;
  const sizes = parts.map(part => Math.min(1, room(part) / part.offsetWidth));
  parts.forEach((part, i) => {
    const isTooSmall = part.matches(".code") && sizes[i] * parseFloat(getComputedStyle(part).fontSize) < 17;
    if (isTooSmall) part.classList.add("wrapped"); else part.style.setProperty("--own", sizes[i]);
  });
  return body.scrollHeight <= body.clientHeight + 1;
}

// The largest of the sizes from `low` to `high` with which a slide fits.
function largest(low, high, test) {
  if (test(high)) return high;
  for (let step = (high - low) / 2; step > 0.02; step /= 2) if (test(low + step)) low += step;
  test(low);
  return low;
}

// Makes what is on a slide as large as the room allows, and smaller where it would not fit. What is still little gets
// larger letters or, if only its width limits it, more room between its lines.
function fit(slide) {
  const body = slide && slide.querySelector(":scope > .page > .body");
  if (!body || body.dataset.fit) return;
  const has = selector => body.querySelector(selector) !== null;
  const filled = () => [...body.children].reduce((sum, part) => sum + part.offsetHeight, 0) / body.clientHeight;
  const view = body.querySelector(".view");
  if (view) {
    const frame = view.querySelector("iframe"), content = frame?.contentDocument?.body?.getBoundingClientRect();
    if (content && content.bottom > 100) frame.style.height = Math.min(frame.offsetHeight, content.bottom + 10) + "px";
    view.style.setProperty("--high", view.firstElementChild.offsetHeight);
    view.style.setProperty("--scale", 0.6);
  }
  let size = largest(0.68, has(".figure, .view") ? 1 : 1.5, size => fits(body, size, 1)), grow = 1;
  if (view) largest(0.6, Math.min(1.35, view.parentElement.clientWidth / 860), scale => {
    view.style.setProperty("--scale", scale);
    return fits(body, size, 1);
  });
  if (size >= 1) grow = largest(1, 1.6, grow => fits(body, size, grow));
  if (!has(".figure, .view, table, .beside > div")) {
    if (filled() < 0.5) size = largest(size, 2, size => fits(body, size, grow));
    body.classList.toggle("airy", filled() < 0.5);
    if (!fits(body, size, grow)) body.classList.remove("airy");
  }
  body.dataset.fit = size;
}
Reveal.on("ready", event => fit(event.currentSlide));
Reveal.on("slidechanged", event => fit(event.currentSlide));
Reveal.on("pdf-ready", () => document.querySelectorAll(".slides section").forEach(fit));
