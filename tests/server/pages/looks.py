"""How a page looks in a browser: what each page promises, whatever it shows."""

from __future__ import annotations

from tests.fixtures.browser import Page

# https://www.w3.org/TR/WCAG22/#contrast-minimum: each text against the nearest paper that is not transparent.
_FAINT = """(() => {
    const part = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = text => {
        const [r, g, b] = text.match(/[\\d.]+/g).map(Number);
        return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    };
    const paper = element => {
        for (; element; element = element.parentElement) {
            const colour = getComputedStyle(element).backgroundColor;
            if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour;
        }
        return "rgb(255, 255, 255)";
    };
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        if (!own || element instanceof SVGElement || !element.checkVisibility()) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(paper(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) found.push(`${element.tagName}.${element.className} ${contrast.toFixed(2)}`);
    }
    return [...new Set(found)];
})()"""

_LOADED = "performance.getEntriesByType('resource').map(entry => entry.name)"


async def faults_of(page: Page, *, width: int, port: int, status: int = 200) -> list[str]:
    """What is wrong with a page that is open: something is wider than the window, a text is too faint, the
    browser complains, or something was loaded from elsewhere."""
    faults = []
    if (wide := await page.evaluate("document.documentElement.scrollWidth")) > width:
        faults.append(f"{wide} pixels wide")
    faults += [f"too faint: {each}" for each in await page.evaluate(_FAINT)]
    for text in page.complaints:
        # OWASP's Permissions-Policy, which every answer carries, names features that Chromium does not have.
        if "Permissions-Policy header" not in text and not (status >= 400 and f"status of {status}" in text):
            faults.append(text)
    faults += [
        f"loaded {url}"
        for url in await page.evaluate(_LOADED)
        if not url.startswith((f"http://127.0.0.1:{port}/", "data:"))
    ]
    return faults
