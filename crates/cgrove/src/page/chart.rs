//! One curve over time: a drawing that stretches with the page, and text beside it that does not.

use maud::{Markup, html};

use super::axis::{Axis, moment};

/// The drawing's own measures: it is stretched to the place it gets.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 100.0;

/// What is drawn.
pub struct Chart<'a> {
    /// `memory`, `cpu` or `tasks`: its colour.
    pub kind: &'static str,
    pub title: &'static str,
    /// What stands beside the title.
    pub note: String,
    /// Milliseconds and values; `None` is a gap.
    pub points: &'a [(f64, Option<f64>)],
    pub end_ms: f64,
    pub axis: Axis,
    /// How a tick is written.
    pub label: &'a dyn Fn(f64) -> String,
    /// Lines across: value, name, and whether it is the hard one.
    pub limits: &'a [(f64, String, bool)],
    /// Numbered events: when, and their numbers.
    pub marks: &'a [(f64, String)],
}

impl Chart<'_> {
    pub fn draw(&self) -> Markup {
        let x = |ms: f64| (ms / self.end_ms * WIDTH).clamp(0.0, WIDTH);
        let y = |value: f64| HEIGHT - (value / self.axis.top * HEIGHT).clamp(0.0, HEIGHT);
        let up = |value: f64| format!("bottom:{:.2}%", 100.0 - y(value));
        let along = |ms: f64| format!("left:{:.2}%", x(ms) / WIDTH * 100.0);
        let times = Axis::time(self.end_ms);
        let last = times.ticks.last().copied().unwrap_or(0.0);
        let (curve, fill) = paths(self.points, x, y);
        let title = format!("{}: {}", self.title, self.note);
        html! {
            section class=(self.kind) {
                h3 { b { (self.title) } span { (self.note) } }
                div.plot {
                    div.axis aria-hidden="true" {
                        @for tick in &self.axis.ticks { i style=(up(*tick)) { ((self.label)(*tick)) } }
                    }
                    div.area {
                        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none"
                            role="img" aria-label=(title) {
                            @for tick in self.axis.ticks.iter().skip(1) {
                                (line("grid", 0.0, y(*tick), WIDTH, y(*tick)))
                            }
                            @for (at, _) in self.marks { (line("mark", x(*at), 0.0, x(*at), HEIGHT)) }
                            @if !curve.is_empty() {
                                path.fill d=(fill) {}
                                path.curve d=(curve) {}
                            }
                            @for (value, _, hard) in self.limits {
                                @if *value <= self.axis.top {
                                    (line(if *hard { "limit" } else { "soft" }, 0.0, y(*value), WIDTH, y(*value)))
                                }
                            }
                        }
                        @for (value, name, _) in self.limits {
                            @if *value <= self.axis.top { span.cap style=(up(*value)) { (name) } }
                        }
                        @for (at, number) in self.marks { span.flag style=(along(*at)) { (number) } }
                        @if curve.is_empty() { p.dim style="padding:3rem 1rem" { "not known" } }
                    }
                    div.times aria-hidden="true" {
                        @for tick in &times.ticks {
                            @let close = x(*tick) > WIDTH * 0.97 && *tick == last;
                            i.last[close] style=(along(*tick)) { (moment(*tick, self.end_ms)) }
                        }
                    }
                }
            }
        }
    }
}

fn line(class: &str, x1: f64, y1: f64, x2: f64, y2: f64) -> Markup {
    let numbers = [x1, y1, x2, y2].map(number);
    let [x1, y1, x2, y2] = numbers;
    html! { line class=(class) x1=(x1) y1=(y1) x2=(x2) y2=(y2) {} }
}

/// The curve, and the area below it. A gap ends one piece and begins another.
fn paths(
    points: &[(f64, Option<f64>)],
    x: impl Fn(f64) -> f64,
    y: impl Fn(f64) -> f64,
) -> (String, String) {
    let (mut curve, mut fill) = (String::new(), String::new());
    for piece in points.split(|(_, value)| value.is_none()) {
        let places = piece.iter().filter_map(|(ms, value)| Some((x(*ms), y((*value)?))));
        let places: Vec<(f64, f64)> = places.collect();
        let (Some(first), Some(last)) = (places.first(), places.last()) else { continue };
        for (n, (x, y)) in places.iter().enumerate() {
            let verb = if n == 0 { 'M' } else { 'L' };
            curve.push_str(&format!("{verb}{} {}", number(*x), number(*y)));
        }
        if places.len() == 1 {
            // A line of no length is not drawn.
            curve.push_str(&format!("h{}", number(WIDTH / 200.0)));
        }
        fill.push_str(&format!("M{} {HEIGHT}", number(first.0)));
        for (x, y) in &places {
            fill.push_str(&format!("L{} {}", number(*x), number(*y)));
        }
        fill.push_str(&format!("L{} {HEIGHT}Z", number(last.0)));
    }
    (curve, fill)
}

/// As short as the eye can tell.
fn number(value: f64) -> String {
    super::axis::short((value * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_breaks_the_curve() {
        let points = [(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, Some(3.0))];
        let (curve, fill) = paths(&points, |x| x, |y| y);
        assert_eq!(curve, "M0 1L1 2M3 3h5");
        assert_eq!(fill, "M0 100L0 1L1 2L1 100ZM3 100L3 3L3 100Z");
        assert!(paths(&[(0.0, None)], |x| x, |y| y).0.is_empty());
    }
}
