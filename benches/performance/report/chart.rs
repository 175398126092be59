//! Charts as SVG: points on a logarithmic scale, joined where their order has a meaning.

use serde::{Deserialize, Serialize};

use super::spread::number;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 76.0;
/// The height of a dot with its value, and the gap between rows.
const DOT_ROW: f64 = 21.0;
const GAP: f64 = 14.0;
const PLOT_HEIGHT: f64 = 300.0;
const COLOURS: [&str; 5] = ["#1668b3", "#c2410c", "#3f7d20", "#7c3aed", "#57606a"];

/// A chart.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chart {
    /// Lines over a number, both scales logarithmic.
    Lines {
        title: String,
        x: String,
        y: String,
        series: Vec<Series<f64>>,
    },
    /// Named rows, each with a dot for each series, on a logarithmic scale.
    Dots {
        title: String,
        x: String,
        series: Vec<Series<String>>,
    },
}

/// The values of one name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Series<K> {
    pub name: String,
    pub points: Vec<(K, f64)>,
}

impl Chart {
    /// The chart as SVG.
    pub fn svg(&self) -> String {
        match self {
            Self::Lines {
                title,
                x,
                y,
                series,
            } => lines(title, x, y, series),
            Self::Dots { title, x, series } => dots(title, x, series),
        }
    }
}

/// A logarithmic scale between two powers of ten.
struct Scale {
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let positive = values.filter(|value| *value > 0.0 && value.is_finite());
        let least = positive.clone().fold(f64::INFINITY, f64::min);
        let most = positive.fold(0.0, f64::max);
        let (least, most) = if most > 0.0 {
            (least, most)
        } else {
            (1.0, 10.0)
        };
        let least = least.log10().floor();
        Self {
            least,
            most: most.log10().ceil().max(least + 1.0),
            from,
            to,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.max(1e-9).log10() - self.least) / (self.most - self.least);
        self.from + share * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.least as i32..=self.most as i32).map(|power| 10_f64.powi(power))
    }
}

fn lines(title: &str, x_name: &str, y_name: &str, series: &[Series<f64>]) -> String {
    let points = series.iter().flat_map(|it| &it.points);
    let bottom = TOP + PLOT_HEIGHT;
    let x = Scale::over(points.clone().map(|it| it.0), LEFT, WIDTH - RIGHT);
    let y = Scale::over(points.map(|it| it.1), bottom, TOP);
    let mut svg = begin(title, bottom + 52.0);
    for tick in x.ticks() {
        let at = x.at(tick);
        svg += &line(at, TOP, at, bottom);
        svg += &text(at, bottom + 18.0, "middle", "small", &tick_text(tick));
    }
    for tick in y.ticks() {
        let at = y.at(tick);
        svg += &line(LEFT, at, WIDTH - RIGHT, at);
        svg += &text(LEFT - 8.0, at + 4.0, "end", "small", &tick_text(tick));
    }
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    svg += &text(middle, bottom + 40.0, "middle", "small", x_name);
    let turned = f64::midpoint(TOP, bottom);
    svg += &format!(
        "<text x=\"20\" y=\"{turned:.0}\" class=\"small\" text-anchor=\"middle\" \
         transform=\"rotate(-90 20 {turned:.0})\">{}</text>\n",
        escaped(y_name)
    );
    for (series, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let at = |(from, to): &(f64, f64)| (x.at(*from), y.at(*to));
        let path: Vec<String> = series
            .points
            .iter()
            .map(at)
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        svg += &format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
            path.join(" ")
        );
        for point in &series.points {
            let (x, y) = at(point);
            svg += &dot(x, y, colour);
            svg += &text(x, y - 9.0, "middle", "value", &value_text(point.1));
        }
    }
    end(svg, series.iter().map(|it| it.name.as_str()))
}

fn dots(title: &str, x_name: &str, series: &[Series<String>]) -> String {
    let left = LEFT + 120.0;
    let mut rows: Vec<&str> = Vec::new();
    for (row, _) in series.iter().flat_map(|it| &it.points) {
        if !rows.contains(&row.as_str()) {
            rows.push(row);
        }
    }
    // The dots of one row are placed below each other, or one would hide the other.
    let row_height = DOT_ROW * series.len() as f64 + GAP;
    let bottom = TOP + row_height * rows.len() as f64;
    let values = series.iter().flat_map(|it| &it.points).map(|it| it.1);
    let x = Scale::over(values, left, WIDTH - RIGHT);
    let mut svg = begin(title, bottom + 52.0);
    for tick in x.ticks() {
        let at = x.at(tick);
        svg += &line(at, TOP, at, bottom);
        svg += &text(at, bottom + 18.0, "middle", "small", &tick_text(tick));
    }
    let middle = f64::midpoint(left, WIDTH - RIGHT);
    svg += &text(middle, bottom + 40.0, "middle", "small", x_name);
    for (index, row) in rows.iter().enumerate() {
        let top = TOP + row_height * index as f64;
        svg += &line(left, top, WIDTH - RIGHT, top);
        let middle = top + row_height / 2.0 + 4.0;
        svg += &text(left - 10.0, middle, "end", "small", row);
    }
    let colours = COLOURS.iter().cycle();
    for (index, (series, colour)) in series.iter().zip(colours).enumerate() {
        for (row, value) in &series.points {
            let row = rows.iter().position(|it| it == row).unwrap_or(0);
            let top = TOP + row_height * row as f64;
            let y = top + GAP / 2.0 + DOT_ROW * (index as f64 + 0.5);
            svg += &dot(x.at(*value), y, colour);
            let at = x.at(*value);
            let (beside, anchor) = if at > WIDTH - RIGHT - 50.0 {
                (at - 8.0, "end")
            } else {
                (at + 8.0, "start")
            };
            svg += &text(beside, y + 3.5, anchor, "value", &value_text(*value));
        }
    }
    end(svg, series.iter().map(|it| it.name.as_str()))
}

fn begin(title: &str, height: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" role=\"img\">\n<title>{title}</title>\n\
         <style>.small{{font-size:12px;fill:#424a53}}.value{{font-size:10px;fill:#57606a}}\
         .head{{font-size:15px;font-weight:600;fill:#1f2328}}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n",
        title = escaped(title)
    );
    svg += &text(16.0, 26.0, "start", "head", title);
    svg
}

/// Adds the legend.
fn end<'a>(mut svg: String, names: impl Iterator<Item = &'a str>) -> String {
    let mut at = 16.0;
    for (name, colour) in names.zip(COLOURS.iter().cycle()) {
        svg += &dot(at + 5.0, 46.0, colour);
        svg += &text(at + 15.0, 50.0, "start", "small", name);
        at += 32.0 + 6.6 * name.chars().count() as f64;
    }
    svg + "</svg>\n"
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64) -> String {
    format!(
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#d8dee4\"/>\n"
    )
}

fn dot(x: f64, y: f64, colour: &str) -> String {
    format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>\n")
}

fn text(x: f64, y: f64, anchor: &str, class: &str, text: &str) -> String {
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{}</text>\n",
        escaped(text)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn tick_text(value: f64) -> String {
    let digits = if value < 1.0 {
        (-value.log10()).round() as usize
    } else {
        0
    };
    number(value, digits)
}

fn value_text(value: f64) -> String {
    let digits = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    number(value, digits)
}
