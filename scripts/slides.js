// Arrows, Space and the keys of a presenter's remote go through all slides; S opens the speaker's notes, O an overview.
Reveal.initialize({
  width: 1280, height: 720, margin: 0, center: false, hash: true, transition: "none", backgroundTransition: "none",
  controls: false, navigationMode: "linear", pdfSeparateFragments: false, plugins: [RevealNotes],
});
// Makes the letters of a slide as large as its content allows, and smaller where it would not fit on the slide.
function fit(slide) {
  const body = slide && slide.querySelector(":scope > .page > .body");
  if (!body) return;
  for (let size = body.querySelector(".figure") ? 1 : 1.25; size > 0.68; size -= 0.05) {
    body.style.display = "none";  // or else some browsers keep the heights that formulas had before
    body.style.setProperty("--fit", size);
    void body.offsetHeight;
    body.style.display = "";
    for (const formula of body.querySelectorAll(".formula")) {
      formula.style.zoom = 1;
      formula.style.zoom = Math.min(1, body.clientWidth / formula.offsetWidth);
    }
    if (body.scrollHeight <= body.clientHeight + 1 && body.scrollWidth <= body.clientWidth + 1) return;
  }
}
Reveal.on("ready", event => fit(event.currentSlide));
Reveal.on("slidechanged", event => fit(event.currentSlide));
Reveal.on("pdf-ready", () => document.querySelectorAll(".slides section").forEach(fit));
