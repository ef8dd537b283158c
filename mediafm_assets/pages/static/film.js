// A click on a shot, scene, highlight or break plays the film from there; the timeline follows the film.
const film = document.getElementById("film");
const playhead = document.getElementById("playhead");
const shots = [...document.querySelectorAll("a.shot")].map((link) => ({
  link,
  start: Number(link.dataset.t),
  end: Number(link.dataset.end),
}));
let current = null;

function follow() {
  if (playhead) {
    const place = `${Math.min((100 * film.currentTime) / Number(playhead.dataset.end), 100)}%`;
    playhead.setAttribute("x1", place);
    playhead.setAttribute("x2", place);
  }
  const now = shots.find((shot) => shot.start <= film.currentTime && film.currentTime < shot.end);
  if (now !== current) {
    current?.link.removeAttribute("aria-current");
    now?.link.setAttribute("aria-current", "true");
    current = now;
  }
}

function play(seconds) {
  film.currentTime = seconds;
  film.play().catch(() => {}); // a browser may want a click on the film itself
  film.scrollIntoView({ block: "nearest" });
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-t]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  play(Number(link.dataset.t));
});
film.addEventListener("timeupdate", follow);
film.addEventListener("seeked", follow);
film.addEventListener("error", () => {
  film.hidden = true;
  document.getElementById("unplayable").hidden = false;
});
