"""The style sheet of the page of an inspection: light and dark, as the reader's system has it."""

STYLE = """
:root{color-scheme:light dark;--back:#fafaf7;--card:#fff;--ink:#1d2126;--soft:#626a73;--line:#e2e3df;--bar:#2f6f9f;
--good:#23794a;--note:#a06a00;--bad:#b3261e;--check:#d9dad6}
@media (prefers-color-scheme:dark){:root{--back:#14171a;--card:#1c2024;--ink:#e7e9ea;--soft:#98a1aa;--line:#2e343a;
--bar:#6fb1dd;--good:#62c48a;--note:#e0ad4f;--bad:#ff8a80;--check:#3a4148}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 24px 64px}
header p{margin:0;color:var(--soft);font-size:13px;letter-spacing:.04em}
h1{margin:2px 0 18px;font-size:26px;line-height:1.2;font-weight:650;overflow-wrap:anywhere}
h2{margin:0 0 6px;font-size:17px;font-weight:650}
section{margin-top:36px}
section>p{margin:0 0 12px;color:var(--soft)}
.tiles{display:flex;flex-wrap:wrap;gap:12px}
.tiles div{flex:1 1 150px;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.tiles b{display:block;font-size:21px;font-weight:650;font-variant-numeric:tabular-nums}
.tiles span{color:var(--soft);font-size:13px}
.verdict{list-style:none;margin:10px 0 0;padding:6px 18px;background:var(--card);border:1px solid var(--line);
border-radius:10px}
.verdict li{display:flex;gap:12px;padding:7px 0;border-top:1px solid var(--line)}
.verdict li:first-child{border-top:0;font-weight:600}
.verdict b{flex:none;width:1.1em;text-align:center;font-weight:800}
.verdict span{overflow-wrap:anywhere;min-width:0}
.good b{color:var(--good)}.note b{color:var(--note)}.bad b{color:var(--bad)}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(110px,1fr));gap:8px}
.sheet.small{grid-template-columns:repeat(auto-fill,minmax(57px,1fr))}
.small img{image-rendering:pixelated}
figure{margin:0;min-width:0}
img{display:block;width:100%;border-radius:4px;
background:repeating-conic-gradient(var(--check) 0 25%,transparent 0 50%) 0 0/12px 12px;
outline:1px solid var(--line);outline-offset:-1px}
figcaption{color:var(--soft);font-size:12px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(400px,1fr));gap:16px;margin-top:10px}
.charts figure,.tables table,.scroll,.group{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:12px 16px}
.charts figcaption{font-size:13px;margin-bottom:8px}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{fill:var(--soft);font-size:11px;text-anchor:middle}
.bar{fill:var(--bar)}.hover{fill:transparent}g:hover .hover{fill:var(--line)}.axis{stroke:var(--line)}
.area{fill-opacity:.35;stroke-width:1.2;fill:var(--soft);stroke:var(--soft)}
.area.red{fill:#d8483f;stroke:#d8483f}.area.green{fill:#3c9a55;stroke:#3c9a55}.area.blue{fill:#3f7fd8;stroke:#3f7fd8}
.area.alpha{fill:none;stroke-dasharray:3 2}
.tables{columns:3 280px;column-gap:16px;margin-top:10px}
.tables table{break-inside:avoid;margin-bottom:16px}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:14px}
th{text-align:left;font-weight:600;font-size:13px;color:var(--soft);padding:2px 8px 4px 0}
th:not(:first-child){text-align:right}th:last-child{padding-right:0}
td{padding:3px 8px 3px 0;border-top:1px solid var(--line);overflow-wrap:anywhere;vertical-align:top}
td:last-child{padding-right:0}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.scroll{max-height:420px;overflow:auto;margin-top:10px}
.classes td{white-space:nowrap;border:0}.classes .wide{width:80%;vertical-align:middle}
.wide i{display:block;height:10px;min-width:1px;border-radius:2px;background:var(--bar)}
.problems th{text-align:left!important}.problems td:first-child{width:45%}.problems td:nth-child(2){white-space:nowrap}
.groups{display:grid;grid-template-columns:repeat(auto-fill,minmax(310px,1fr));gap:12px}
.group{display:flex;flex-wrap:wrap;gap:10px}
.group figure{width:80px}
footer{margin-top:40px;color:var(--soft);font-size:13px}
@media print{body{background:#fff}.scroll{max-height:none}}
"""
