"use strict";
// Opens what is kept of a request. The policy of the pages has the browser send no form.
(() => {
  const form = document.getElementById("find");
  form.hidden = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.href = `requests/${encodeURIComponent(form.elements.request.value.trim())}`;
  });
})();
