//! Bars and scatter plots as SVG, readable on light and on dark pages.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const FONT: f64 = 13.0;
/// Width of a letter, rounded up: labels are placed without measuring them.
const LETTER: f64 = 7.2;

/// A value with optional minimum and maximum.
#[derive(Clone, Copy)]
pub(super) struct Value {
    pub(super) median: f64,
    pub(super) range: Option<(f64, f64)>,
}

/// One row of bars: a value for each series that was measured.
pub(super) struct Bars {
    pub(super) label: String,
    pub(super) values: Vec<Option<Value>>,
}

/// The CSS class of a row or point; the project's own are highlighted.
fn class(label: &str) -> &'static str {
    if label.starts_with("aibit") { "own" } else { "peer" }
}

/// Horizontal bars in groups, with a whisker from minimum to maximum; `axis` names values and unit.
pub(super) fn bars(title: &str, axis: &str, series: &[&str], rows: &[Bars]) -> String {
    let (bar, gap, top) = (18.0, 14.0, if series.len() > 1 { 64.0 } else { 40.0 });
    let left = LETTER * rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0) as f64 + 16.0;
    let right = WIDTH - 64.0;
    let reach = |value: &Value| value.range.map_or(value.median, |(_, max)| max);
    let largest = rows.iter().flat_map(|row| row.values.iter().flatten()).map(reach).fold(0.0, f64::max);
    let step = nice_step(largest);
    let end = step * (largest / step).ceil().max(1.0);
    let x = |value: f64| left + (right - left) * value / end;
    let group = bar * series.len() as f64;
    let bottom = top + rows.len() as f64 * (group + gap);

    let mut svg = head(title, bottom + 48.0);
    if series.len() > 1 {
        let mut at = left;
        for (index, name) in series.iter().enumerate() {
            let _ =
                writeln!(svg, r#"<rect class="own s{index}" x="{at:.1}" y="36" width="12" height="12"/>"#);
            let _ = writeln!(
                svg,
                r#"<rect class="peer s{index}" x="{:.1}" y="36" width="12" height="12"/>"#,
                at + 14.0
            );
            text(&mut svg, at + 32.0, 46.5, "start", name);
            at += 56.0 + LETTER * name.chars().count() as f64;
        }
    }
    let mut tick = 0.0;
    while tick <= end * 1.0001 {
        let _ = writeln!(
            svg,
            r#"<line class="grid" x1="{0:.1}" x2="{0:.1}" y1="{top:.1}" y2="{bottom:.1}"/>"#,
            x(tick)
        );
        text(&mut svg, x(tick), bottom + 18.0, "middle", &number(tick));
        tick += step;
    }
    text(&mut svg, f64::midpoint(left, right), bottom + 38.0, "middle", axis);
    for (index, row) in rows.iter().enumerate() {
        let y = top + gap / 2.0 + index as f64 * (group + gap);
        text(&mut svg, left - 8.0, y + group / 2.0 + 4.5, "end", &row.label);
        for (series, value) in row.values.iter().enumerate() {
            let y = y + bar * series as f64;
            let Some(value) = value else {
                text(&mut svg, left + 6.0, y + 13.5, "start", "not measured");
                continue;
            };
            let _ = writeln!(
                svg,
                r#"<rect class="{} s{series}" x="{left:.1}" y="{:.1}" width="{:.1}" height="{:.1}"/>"#,
                class(&row.label),
                y + 1.0,
                x(value.median) - left,
                bar - 2.0
            );
            if let Some((min, max)) = value.range {
                let _ = writeln!(
                    svg,
                    r#"<line class="range" x1="{:.1}" x2="{:.1}" y1="{2:.1}" y2="{2:.1}"/>"#,
                    x(min),
                    x(max),
                    y + bar / 2.0
                );
            }
            text(&mut svg, x(reach(value)) + 6.0, y + 13.5, "start", &number(value.median));
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// One point of a scatter plot.
pub(super) struct Point {
    pub(super) label: String,
    pub(super) x: f64,
    pub(super) y: Value,
}

/// Points with their labels; both axes start at zero.
pub(super) fn scatter(title: &str, x_axis: &str, y_axis: &str, points: &[Point]) -> String {
    let (left, right, top, bottom) = (68.0, WIDTH - 24.0, 40.0, 400.0);
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let largest = values.fold(0.0, f64::max);
        let step = nice_step(largest);
        (step, step * (largest / step * 1.02).ceil().max(1.0))
    };
    let (x_step, x_end) = range(&mut points.iter().map(|point| point.x));
    let (y_step, y_end) = range(&mut points.iter().map(|p| p.y.range.map_or(p.y.median, |(_, max)| max)));
    let x = |value: f64| left + (right - left) * value / x_end;
    let y = |value: f64| bottom - (bottom - top) * value / y_end;

    let mut svg = head(title, bottom + 48.0);
    for (step, end, vertical) in [(x_step, x_end, true), (y_step, y_end, false)] {
        let mut tick = 0.0;
        while tick <= end * 1.0001 {
            let (x1, x2, y1, y2) =
                if vertical { (x(tick), x(tick), top, bottom) } else { (left, right, y(tick), y(tick)) };
            let _ =
                writeln!(svg, r#"<line class="grid" x1="{x1:.1}" x2="{x2:.1}" y1="{y1:.1}" y2="{y2:.1}"/>"#);
            if vertical {
                text(&mut svg, x1, bottom + 18.0, "middle", &number(tick));
            } else {
                text(&mut svg, left - 8.0, y1 + 4.5, "end", &number(tick));
            }
            tick += step;
        }
    }
    text(&mut svg, f64::midpoint(left, right), bottom + 38.0, "middle", x_axis);
    let middle = f64::midpoint(top, bottom);
    let _ = writeln!(
        svg,
        r#"<text x="16" y="{middle:.1}" text-anchor="middle" transform="rotate(-90 16 {middle:.1})">{}</text>"#,
        escape(y_axis)
    );
    // Occupied rectangles: points and labels placed so far.
    let mut taken: Vec<[f64; 4]> = points
        .iter()
        .map(|point| [x(point.x) - 7.0, y(point.y.median) - 7.0, x(point.x) + 7.0, y(point.y.median) + 7.0])
        .collect();
    for point in points {
        let (px, py) = (x(point.x), y(point.y.median));
        if let Some((min, max)) = point.y.range {
            let _ = writeln!(
                svg,
                r#"<line class="range" x1="{px:.1}" x2="{px:.1}" y1="{:.1}" y2="{:.1}"/>"#,
                y(min),
                y(max)
            );
        }
        let _ =
            writeln!(svg, r#"<circle class="{} s0" cx="{px:.1}" cy="{py:.1}" r="6"/>"#, class(&point.label));
        let width = LETTER * point.label.chars().count() as f64;
        let places =
            [(12.0, 0.0), (-12.0 - width, 0.0), (12.0, -17.0), (12.0, 17.0), (12.0, -34.0), (12.0, 34.0)]
                .map(|(dx, dy)| [px + dx, py + dy - 8.0, px + dx + width, py + dy + 8.0]);
        let free = |place: &&[f64; 4]| {
            let [x1, y1, x2, y2] = **place;
            x1 >= left
                && x2 <= WIDTH
                && y1 >= top
                && y2 <= bottom
                && !taken.iter().any(|t| x1 < t[2] && t[0] < x2 && y1 < t[3] && t[1] < y2)
        };
        let place = *places.iter().find(free).unwrap_or(&places[0]);
        taken.push(place);
        text(&mut svg, place[0], place[1] + 12.5, "start", &point.label);
    }
    svg.push_str("</svg>\n");
    svg
}

fn head(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0} {height:.0}" role="img" aria-label="{title}">
<style>
text {{ font-family: system-ui, sans-serif; font-size: {FONT}px; fill: #1f2328 }}
.title {{ font-weight: 600 }}
.grid {{ stroke: #d1d9e0 }}
.range {{ stroke: #1f2328; stroke-width: 1.5 }}
.own {{ fill: #0969da }}
.peer {{ fill: #8c959f }}
.s1 {{ fill-opacity: 0.55 }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3 }}
.grid {{ stroke: #3d444d }}
.range {{ stroke: #e6edf3 }}
.own {{ fill: #4493f8 }}
.peer {{ fill: #767e89 }}
}}
</style>
<text class="title" x="8" y="20">{title}</text>
"#
    )
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escape(text));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// 1, 2 or 5 times a power of ten, so that an axis to `largest` has four to ten steps.
fn nice_step(largest: f64) -> f64 {
    let power = 10_f64.powf((largest.max(1e-9) / 4.0).log10().floor());
    let steps = [5.0, 2.0, 1.0].map(|factor| factor * power);
    steps.into_iter().find(|step| largest / step >= 4.0).unwrap_or(power)
}

fn number(value: f64) -> String {
    if value >= 100.0 || value.fract().abs() < 1e-9 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_four_to_ten_steps() {
        for (largest, step) in
            [(1.0, 0.2), (4.0, 1.0), (36.0, 5.0), (250.0, 50.0), (1500.0, 200.0), (3100.0, 500.0)]
        {
            assert!((nice_step(largest) - step).abs() < 1e-9 * step, "{largest}: {}", nice_step(largest));
        }
    }

    #[test]
    fn text_is_escaped() {
        let rows = [Bars { label: "a < b & \"c\"".into(), values: vec![None] }];
        assert!(bars("t", "s", &[""], &rows).contains("a &lt; b &amp; &quot;c&quot;"));
    }
}
