// WCAG contrast, computed from what the browser paints: an expression that a test evaluates in the page.
(() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  // Any CSS colour, painted over an opaque [r, g, b].
  const over = (below, color) => {
    for (const style of [`rgb(${below.join(" ")})`, color]) {
      context.fillStyle = style;
      context.fillRect(0, 0, 1, 1);
    }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => rgb.map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, i) => sum + [0.2126, 0.7152, 0.0722][i] * value, 0);
  const ratio = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  // What lies behind a node: the backgrounds of its ancestors, and the block of the tree that a label stands on.
  const behind = (node) => {
    const chain = [];
    for (let one = node; one; one = one.parentElement) chain.unshift(one);
    return chain.reduce((color, one) => {
      const block = one.matches("g.node") ? getComputedStyle(one.querySelector("rect")).fill : "transparent";
      return over(over(color, getComputedStyle(one).backgroundColor), block);
    }, [255, 255, 255]);
  };
  const unseen = "script, style, noscript, .hidden, option, :disabled";

  return {
    text() {
      const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), low = new Set();
      let count = 0;
      while (walker.nextNode()) {
        const text = walker.currentNode.data.trim(), node = walker.currentNode.parentElement;
        if (!text || !node.checkVisibility({ opacityProperty: true }) || node.closest(unseen)) continue;
        const style = getComputedStyle(node), below = behind(node);
        const found = ratio(over(below, node.ownerSVGElement ? style.fill : style.color), below);
        const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        count++;
        if (!(found >= (large ? 3 : 4.5))) low.add(`${text.slice(0, 30)}: ${found.toFixed(2)}`);
      }
      return { count, low: [...low] };
    },
    shapes() {
      const probe = document.body.appendChild(document.createElement("i"));
      const color = (name) => { probe.style.color = `var(${name})`; return over([255, 255, 255], getComputedStyle(probe).color); };
      const names = ["--run0", "--run1", "--right", "--wrong", "--other", ...Array.from({ length: 8 }, (_, i) => `--p${i}`)];
      const low = names.map((name) => [name, ratio(color(name), color("--area"))]).filter(([, found]) => !(found >= 3));
      probe.remove();
      return { count: names.length, low };
    },
  };
})()
