"use strict";
// Sends what a form of the page describes, to the server that the page came from, and shows the answer as text.
(() => {
  const SHOWN_MAX = 65536; // an export has no end that would be worth waiting for here
  const root = new URL(document.documentElement.dataset.root, location.href);

  const line = (parent, name, text, kind) => {
    const element = parent.appendChild(document.createElement(name));
    element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };

  const beginning = async (response) => {
    if (!response.body) return "";
    const reader = response.body.getReader(), decoder = new TextDecoder();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return text + decoder.decode();
      text += decoder.decode(value, { stream: true });
      if (text.length > SHOWN_MAX) {
        reader.cancel();
        return text.slice(0, SHOWN_MAX) + "\n… cut here";
      }
    }
  };

  const pretty = (text) => {
    try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
  };

  const send = async (form) => {
    const query = new URLSearchParams(), headers = new Headers();
    let path = form.dataset.path;
    for (const input of form.querySelectorAll("input[data-in]")) {
      if (input.dataset.in === "path") path = path.replace(`{${input.name}}`, encodeURIComponent(input.value));
      else if (input.value === "") continue;
      else if (input.dataset.in === "query") query.append(input.name, input.value);
      else headers.set(input.name, input.value);
    }
    const area = form.querySelector("textarea");
    if (area) headers.set("Content-Type", "application/json");
    headers.set("Accept", "application/json");
    const url = new URL(path.slice(1), root);
    url.search = query;
    const answer = form.querySelector(".answer");
    answer.replaceChildren();
    const began = performance.now();
    try {
      const response = await fetch(url, { method: form.dataset.method, headers, body: area ? area.value : undefined });
      const text = await beginning(response);
      const kind = response.status < 300 ? "good" : response.status < 500 ? "warn" : "bad";
      line(answer, "p", `${response.status} ${response.statusText}`, kind);
      const facts = [`${Math.round(performance.now() - began)} ms`];
      for (const name of ["server-timing", "location", "etag", "retry-after", "idempotency-replayed", "x-request-id"]) {
        if (response.headers.has(name)) facts.push(`${name}: ${response.headers.get(name)}`);
      }
      line(answer, "p", facts.join(" · "), "faint");
      if (text) line(answer, "pre", pretty(text));
    } catch (error) {
      line(answer, "p", `No answer: ${error.message}`, "bad");
    }
  };

  for (const form of document.querySelectorAll("form.try")) {
    form.hidden = false;
    form.addEventListener("submit", (event) => { event.preventDefault(); send(form); });
    form.querySelector("select")?.addEventListener("change", (event) => {
      form.querySelector("textarea").value = event.target.value;
    });
  }
  const open = () => {
    const chosen = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (chosen instanceof HTMLDetailsElement) chosen.open = true;
  };
  addEventListener("hashchange", open);
  open();
})();
