"""The look of the page: its colours and its style sheet."""

# name -> (light, dark).
COLOURS: dict[str, tuple[str, str]] = {
  "page": ("#f7f6f3", "#131619"),
  "surface": ("#fffffe", "#1b1f23"),
  "ink": ("#1c2127", "#e9e7e2"),
  "muted": ("#59636e", "#a4adb6"),
  "rule": ("#dedbd4", "#343b42"),
  "grid": ("#eceae5", "#272d33"),
  "accent": ("#14588c", "#86bce4"),
  "warn": ("#7c4a03", "#f0c070"),
  "warn-soft": ("#fcf1dc", "#33291a"),
  # The ground of the pictures, which are drawn with the light colours.
  "plate": ("#fffffe", "#fffffe"),
}
LIGHT = {name: pair[0] for name, pair in COLOURS.items()}

SERIF = (
  '"Iowan Old Style", "Palatino Linotype", Palatino, Charter, '
  '"Bitstream Charter", Georgia, "Liberation Serif", serif'
)
SANS = (
  'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, '
  '"Liberation Sans", sans-serif'
)


def _variables(shade: int) -> str:
  return "".join(f"--{n}:{pair[shade]};" for n, pair in COLOURS.items())


def style_sheet() -> str:
  """The page's CSS: light, dark and print colours, wide and narrow layout."""
  light, dark = _variables(0), _variables(1)
  return (
    f":root{{color-scheme:light dark;{light}--serif:{SERIF};--sans:{SANS}}}\n"
    f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    f"{_CSS}"
    f"@media print{{:root{{color-scheme:light;{light}--page:#fff}}\n"
    f"{_PRINT_CSS}}}\n"
  )


_CSS = """
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
  font:400 1rem/1.6 var(--sans);text-rendering:optimizeLegibility}
a{color:var(--accent);text-underline-offset:.18em}
:focus-visible{outline:2px solid var(--accent);outline-offset:3px;
  border-radius:4px}
.skip{position:absolute;left:-100vw;top:0;padding:.6rem 1rem;z-index:9;
  background:var(--surface)}
.skip:focus{left:1rem;top:1rem}
.shell{max-width:74rem;margin:0 auto;padding:0 2rem;display:grid;
  grid-template-columns:11.5rem minmax(0,1fr);column-gap:3.5rem}
.masthead{grid-column:2;padding:4.25rem 0 2rem}
h1,h2{font-family:var(--serif);font-weight:600;letter-spacing:-.012em;
  line-height:1.15;margin:0;text-wrap:balance}
h1{font-size:clamp(2rem,1.4rem + 2.4vw,2.85rem);overflow-wrap:anywhere}
.subtitle{color:var(--muted);font-size:1.0625rem;margin:.8rem 0 0;
  max-width:62ch;overflow-wrap:anywhere}
nav{grid-column:1;grid-row:1/span 2;padding-top:4.9rem}
nav ol{position:sticky;top:2.5rem;list-style:none;margin:0;padding:0;
  max-height:calc(100vh - 4rem);overflow:auto;scroll-target-group:auto}
nav a{display:block;padding:.32rem .1rem;color:var(--muted);
  text-decoration:none;font-size:.9rem;line-height:1.4}
nav a:hover{color:var(--ink);text-decoration:underline}
nav a:target-current{color:var(--ink);font-weight:600}
main{grid-column:2;min-width:0;padding-bottom:4rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11.5rem,1fr));
  gap:1px;margin:0;padding:0;background:var(--surface);
  border:1px solid var(--rule);border-radius:12px;overflow:hidden}
.card{box-shadow:1px 1px 0 var(--rule);padding:1.25rem 1.35rem 1.3rem;margin:0;
  min-width:0;display:grid;grid-row:span 4;grid-template-rows:subgrid;
  grid-template-columns:minmax(0,1fr);row-gap:0;align-content:start}
.card dt{grid-row:1}.value{grid-row:2}.interval{grid-row:3}.note{grid-row:4}
.card dt{color:var(--muted);font-size:.875rem;line-height:1.4;
  overflow-wrap:anywhere}
.card dd{margin:0}
.value{font-family:var(--serif);font-size:2.3rem;line-height:1.2;
  font-variant-numeric:tabular-nums lining-nums;margin-top:.35rem!important;
  overflow-wrap:anywhere}
.value.words{font-size:1.5rem;line-height:1.35;padding:.35rem 0}
.value.absent{color:var(--muted)}
.interval{font-size:.875rem;font-variant-numeric:tabular-nums lining-nums}
.track{display:block;position:relative;height:6px;border-radius:3px;
  background:var(--grid);margin:.7rem 0 .65rem}
.track i{position:absolute;top:0;height:6px;border-radius:3px;min-width:3px;
  background:var(--accent);opacity:.5}
.track b{position:absolute;top:-3px;width:2px;height:12px;margin-left:-1px;
  background:var(--ink)}
.card .note{color:var(--muted);font-size:.8125rem;line-height:1.45;
  margin-top:.3rem}
section{padding-top:3.5rem;scroll-margin-top:0}
section>h2{font-size:1.6rem;padding-bottom:.7rem;
  border-bottom:1px solid var(--rule);margin-bottom:1.35rem;
  overflow-wrap:anywhere}
p{max-width:66ch;margin:0 0 1rem;overflow-wrap:anywhere}
figure{margin:1.75rem 0 2.25rem}
.plate{background:var(--plate);border:1px solid var(--rule);
  border-radius:12px;padding:1.25rem;overflow-x:auto}
.plate img{display:block;max-width:100%;height:auto;margin:0 auto}
figcaption,caption{color:var(--muted);font-size:.9rem;line-height:1.55;
  text-align:left}
figcaption{max-width:70ch;margin:.8rem .1rem 0}
.num{color:var(--ink);font-weight:600;margin-right:.5em}
.wide .plate img{width:100%;min-width:37rem}
.table{overflow-x:auto;margin:1.5rem 0 2.25rem}
table{border-collapse:collapse;width:100%;font-size:.9375rem;line-height:1.45}
caption{padding:0 0 .7rem}
th,td{padding:.5rem .85rem;text-align:left;vertical-align:baseline;
  border-bottom:1px solid var(--grid)}
th:first-child,td:first-child{padding-left:.1rem}
th:last-child,td:last-child{padding-right:.1rem}
thead th{color:var(--muted);font-weight:500;font-size:.8125rem;
  border-bottom:1px solid var(--rule);vertical-align:bottom}
tbody th{font-weight:500}
tbody tr:hover>*{background:var(--grid)}
tbody tr:last-child>*{border-bottom-color:var(--rule)}
.right{text-align:right}
td.right{font-variant-numeric:tabular-nums lining-nums;white-space:nowrap}
td,tbody th{overflow-wrap:break-word}
.absent{color:var(--muted)}
.notice{border-radius:12px;padding:1rem 1.25rem;margin:0 0 1.25rem;
  display:grid;grid-template-columns:auto minmax(0,1fr);column-gap:.85rem;
  background:var(--warn-soft)}
.notice svg{width:1.25rem;height:1.25rem;margin-top:.18rem}
.notice strong{display:block}
.notice ul{margin:0;max-width:66ch;padding-left:1.1rem}
.notice strong,.notice svg{color:var(--warn)}
.cards+.notice{margin-top:1.5rem}
details{border-top:1px solid var(--rule);border-bottom:1px solid var(--rule);
  margin:0 0 1.25rem}
details+details{border-top:0;margin-top:-1.25rem}
h2+details{border-top:0;margin-top:-1.35rem}
details>.table{margin:.25rem 0 1.5rem}
summary{padding:.8rem .1rem;cursor:pointer;font-weight:500}
summary:hover{color:var(--accent)}
details[open]>summary{margin-bottom:.4rem}
footer{grid-column:2;border-top:1px solid var(--rule);color:var(--muted);
  font-size:.875rem;padding:1.25rem 0 4rem}
footer p{margin:0;max-width:none}
@media (min-width:62.01rem){
.small{display:grid;grid-template-columns:auto minmax(12rem,1fr);
  column-gap:1.75rem;align-items:end}
.small figcaption{margin:0 0 .4rem;padding-top:.8rem;
  border-top:1px solid var(--rule)}
}
@media (max-width:62rem){
.shell{display:block;max-width:52rem;padding:0 1.25rem}
.masthead{padding:2.5rem 0 1.5rem}
nav{position:sticky;top:0;z-index:5;margin:0 -1.25rem 1.5rem;padding:0;
  background:var(--page);border-bottom:1px solid var(--rule)}
nav ol{position:static;display:flex;gap:1.35rem;max-height:none;
  overflow-x:auto;padding:.35rem 1.25rem;scrollbar-width:none}
nav a{white-space:nowrap;padding:.45rem 0}
section{padding-top:2.75rem;scroll-margin-top:2.5rem}
}
@media (max-width:40rem){
.cards{grid-template-columns:1fr 1fr}
.card{padding:1rem}
.card:last-child:nth-child(odd){grid-column:1/-1}
.value{font-size:1.8rem}
.value.words{font-size:1.2rem}
.plate{padding:.85rem}
}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
"""

_PRINT_CSS = """
@page{margin:16mm}
body{font-size:10pt}
.shell{display:block;max-width:none;padding:0}
nav,.skip{display:none}
.masthead{padding-top:0}
section{padding-top:1.75rem}
figure,.card,.notice,tr{break-inside:avoid}
h2,caption,summary{break-after:avoid}
.cards,.notice,.plate,.track *{print-color-adjust:exact;
  -webkit-print-color-adjust:exact}
.plate,.table{overflow:visible}
.wide .plate img{min-width:0}
.small{display:block}
details::details-content{content-visibility:visible;display:block;
  block-size:auto}
summary{list-style:none}
"""
