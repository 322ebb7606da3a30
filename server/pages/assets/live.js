"use strict";
// Loads the same page again, every 2 s while the tab is visible, and takes over what has changed.
(() => {
  const EVERY_MS = 2000;
  const find = (id) => document.getElementById(id);
  let paused = false, timer = null, asking = false;

  const takeOver = (page) => {
    for (const id of ["looked", "notes", "pools", "heading", "others", "counts"]) {
      const now = find(id), next = page.getElementById(id);
      if (!now.isEqualNode(next)) now.replaceWith(document.adoptNode(next));
    }
    const list = find("units");
    const wanted = [...page.getElementById("units").children];
    const ids = new Set(wanted.map((each) => each.id));
    for (const row of [...list.children]) if (!ids.has(row.id)) row.remove();
    wanted.forEach((next, at) => {
      const now = find(next.id), place = list.children[at] ?? null;
      if (now && now.isEqualNode(next)) {
        if (now !== place) list.insertBefore(now, place);
        return;
      }
      now?.remove();
      list.insertBefore(document.adoptNode(next), list.children[at] ?? null);
    });
    document.title = page.title;
  };

  const ask = async () => {
    if (asking) return;
    asking = true;
    try {
      const response = await fetch(location.pathname, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
      takeOver(new DOMParser().parseFromString(await response.text(), "text/html"));
      find("looked").className = "";
    } catch (error) {
      const looked = find("looked");
      if (!looked.classList.contains("bad")) looked.textContent += `; no answer since (${error.message})`;
      looked.className = "bad";
    } finally {
      asking = false;
    }
  };

  const turn = () => {
    clearInterval(timer);
    timer = null;
    if (paused || document.hidden) return;
    timer = setInterval(ask, EVERY_MS);
  };

  const pause = find("pause");
  pause.hidden = find("polls").hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    if (!paused) ask();
    turn();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !paused) ask();
    turn();
  });
  turn();
})();
