//! Rows into cells: 80x24 shows everything, 60 columns lose the curves, 45 the bars. Nothing is said
//! by colour alone.

use std::fmt::Write;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::model::{HISTORY, Key, Mode, Model, Row};

/// What this terminal can show.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub colour: bool,
    pub unicode: bool,
}

impl Look {
    /// As the environment has it: `NO_COLOR`, `TERM` and the locale's character set.
    pub fn of_place() -> Look {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| set(name));
        let unicode = locale.is_some_and(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        Look { colour: set("NO_COLOR").is_none() && !dumb, unicode }
    }

    fn coloured(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    /// Full is a warning, and over 90 % nearly is.
    fn of_ratio(self, ratio: f64) -> Style {
        match ratio {
            r if r >= 0.9 => self.coloured(Color::Red),
            r if r >= 0.7 => self.coloured(Color::Yellow),
            _ => self.coloured(Color::Green),
        }
    }
}

/// Where the columns are. A width of 0 leaves one out.
struct Columns {
    name: u16,
    tasks: u16,
    memory: u16,
    bar: u16,
    cpu: u16,
    curve: u16,
}

impl Columns {
    fn of(width: u16) -> Columns {
        let (tasks, memory, cpu) = (9, 7, 6);
        let bar = if width >= 45 { 6 } else { 0 };
        let mut curve = if width >= 72 { 12 } else { 0 };
        // Half of what is left over is the curve's, a minute at most.
        curve += (width.saturating_sub(80) / 2).min(HISTORY as u16 - 12);
        let gaps = 3 + 2 * u16::from(bar > 0) + u16::from(curve > 0);
        let rest = tasks + memory + cpu + 2 * bar + curve + gaps;
        Columns { name: width.saturating_sub(rest).max(8), tasks, memory, bar, cpu, curve }
    }
}

/// The whole picture.
pub fn frame(model: &Model, look: Look, area: Rect, to: &mut Buffer) {
    if area.height < 4 || area.width < 20 {
        to.set_stringn(area.x, area.y, "too small", area.width.into(), Style::new());
        return;
    }
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let line = |to: &mut Buffer, y: u16, text: &str, style| {
        to.set_stringn(area.x, area.y + y, text, area.width.into(), style);
    };
    line(to, 0, &headline(model), bold);
    let body = Rect { y: area.y + 1, height: area.height - 2, ..area };
    if model.mode == Mode::Help {
        for (y, text) in HELP.lines().enumerate().take(body.height.into()) {
            line(to, 1 + y as u16, text, Style::new());
        }
    } else {
        table(model, look, body, to);
    }
    let last = area.height - 1;
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    match (&model.mode, model.message()) {
        (Mode::Confirm(path), _) => {
            let text = format!("kill everything in {path}? y to do it, any other key not to");
            line(to, last, &text, look.coloured(Color::Red).add_modifier(Modifier::BOLD));
        }
        (Mode::Filter, _) => {
            line(
                to,
                last,
                &format!("filter: {}_  (Enter keeps it, Esc drops it)", model.filter),
                bold,
            );
        }
        (Mode::Help, _) => line(to, last, "any key goes back", reversed),
        (Mode::Browse, Some(message)) => line(to, last, message, bold),
        (Mode::Browse, None) => {
            let keys = if look.unicode {
                "\u{2191}\u{2193} select  \u{2190}\u{2192} fold  f freeze  x kill  s sort  / filter  ? help  q quit"
            } else {
                "jk select  hl fold  f freeze  x kill  s sort  / filter  ? help  q quit"
            };
            line(to, last, keys, Style::new().add_modifier(Modifier::DIM));
        }
    }
}

/// The picture as text, of any height.
pub fn text(model: &Model, look: Look, width: u16) -> String {
    let height = u16::try_from(model.rows().len()).unwrap_or(u16::MAX - 2) + 2;
    let area = Rect::new(0, 0, width, height.max(3));
    let mut cells = Buffer::empty(area);
    let style = Style::new();
    cells.set_stringn(0, 0, headline(model), width.into(), style);
    table(model, look, Rect { y: 1, height: area.height - 1, ..area }, &mut cells);
    lines(&cells)
}

/// What stands in the cells, without styles.
fn lines(cells: &Buffer) -> String {
    let mut text = String::new();
    for y in cells.area.top()..cells.area.bottom() {
        let row: String = (cells.area.left()..cells.area.right())
            .filter_map(|x| Some(cells.cell((x, y))?.symbol()))
            .collect();
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

fn headline(model: &Model) -> String {
    let (runs, tasks, cpus, memory) = model.totals();
    let mut text = format!(
        "cgrove top  {runs} {}  {tasks} {}  cpu {}%  mem {}  by {}",
        if runs == 1 { "run" } else { "runs" },
        if tasks == 1 { "task" } else { "tasks" },
        percent(cpus),
        bytes(memory),
        model.sort.name(),
    );
    // Writing to a String cannot fail.
    if !model.filter.is_empty() {
        let _ = write!(text, "  only {}", model.filter);
    }
    if model.paused {
        text.push_str("  paused");
    }
    text
}

fn table(model: &Model, look: Look, area: Rect, to: &mut Buffer) {
    let columns = Columns::of(area.width);
    let dim = Style::new().add_modifier(Modifier::DIM | Modifier::UNDERLINED);
    let mut titles = format!("{:<1$}", "NAME", usize::from(columns.name));
    let mut title = |text: &str, width: u16, gap: bool| {
        if width > 0 {
            let _ = write!(titles, "{}{text:>1$}", if gap { " " } else { "" }, usize::from(width));
        }
    };
    title("TASKS", columns.tasks, true);
    title("", columns.bar, columns.bar > 0);
    title("MEMORY", columns.memory, true);
    title("", columns.bar, columns.bar > 0);
    title("CPU%", columns.cpu, true);
    title("LAST MINUTE", columns.curve, columns.curve > 0);
    to.set_stringn(area.x, area.y, &titles, area.width.into(), dim);
    let height = usize::from(area.height.saturating_sub(1));
    if model.rows().is_empty() {
        let text = match (model.is_new(), model.filter.is_empty()) {
            (true, _) => "looking ...",
            (false, true) => "nothing runs: `cgrove run -- COMMAND` does",
            (false, false) => "nothing matches the filter",
        };
        to.set_stringn(area.x, area.y + 1, text, area.width.into(), Style::new());
        return;
    }
    // The selected row is always in sight.
    let first = (model.selected() + 1).saturating_sub(height);
    for (y, (at, row)) in model.rows().iter().enumerate().skip(first).take(height).enumerate() {
        let line = Rect { y: area.y + 1 + y as u16, height: 1, ..area };
        one_row(model, row, look, &columns, line, to);
        if at == model.selected() && !model.is_new() {
            to.set_style(line, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
}

fn one_row(model: &Model, row: &Row, look: Look, columns: &Columns, area: Rect, to: &mut Buffer) {
    let mut x = area.x;
    let mut cell = |text: &str, width: u16, style: Style, gap: u16| {
        if width > 0 {
            x += gap;
            to.set_stringn(x, area.y, text, width.into(), style);
            x += width;
        }
    };
    let style = match row.key {
        Key::Group(_) if row.frozen => look.coloured(Color::Cyan),
        Key::Group(_) => Style::new().add_modifier(Modifier::BOLD),
        Key::Process(..) => Style::new(),
    };
    cell(&name(row, look), columns.name, style, 0);
    let right = |text: String, width: u16| format!("{text:>0$}", usize::from(width));
    let of = |now: Option<u64>, max: Option<u64>| Some(now? as f64 / (max? as f64).max(1.0));
    let tasks = match (row.tasks, row.tasks_max) {
        (Some(now), Some(max)) => format!("{now}/{max}"),
        (Some(now), None) => now.to_string(),
        (None, _) => "?".to_owned(),
    };
    let full = of(row.tasks, row.tasks_max);
    let hue = |ratio: Option<f64>| ratio.map_or(Style::new(), |ratio| look.of_ratio(ratio));
    cell(&right(tasks, columns.tasks), columns.tasks, hue(full), 1);
    cell(&bar(full, columns.bar, look), columns.bar, hue(full), 1);
    let full = of(row.memory, row.memory_max);
    let about = if row.memory_is_rss && matches!(row.key, Key::Group(_)) { "~" } else { "" };
    let memory = row.memory.map_or_else(String::new, |it| format!("{about}{}", bytes(it)));
    cell(&right(memory, columns.memory), columns.memory, hue(full), 1);
    cell(&bar(full, columns.bar, look), columns.bar, hue(full), 1);
    let cpu = row.cpus.map_or_else(String::new, percent);
    let full = row.cpus.zip(row.cpus_max).map(|(now, max)| now / max.max(1e-9));
    cell(&right(cpu, columns.cpu), columns.cpu, hue(full), 1);
    if let Key::Group(path) = &row.key {
        let points: Vec<f64> = model.history(path).rev().take(columns.curve.into()).collect();
        let top = points.iter().copied().fold(row.cpus_max.unwrap_or(1.0), f64::max);
        let curve: String = points.iter().rev().map(|point| level(point / top, look)).collect();
        cell(&right(curve, columns.curve), columns.curve, look.coloured(Color::Blue), 1);
    }
}

fn name(row: &Row, look: Look) -> String {
    let sign = match (row.open, look.unicode) {
        (None, _) => " ",
        (Some(true), true) => "\u{25be}",
        (Some(false), true) => "\u{25b8}",
        (Some(true), false) => "-",
        (Some(false), false) => "+",
    };
    let mut text = format!("{:1$}{sign} {2}", "", 2 * row.depth, row.name);
    if row.frozen {
        text.push_str("  frozen");
    }
    if row.oom_kills > 0 {
        let _ = write!(text, "  {} killed for memory", row.oom_kills);
    }
    if row.refused > 0 {
        let _ = write!(text, "  {} refused", row.refused);
    }
    if let Some(state @ ('Z' | 'T' | 't' | 'D')) = row.state {
        let _ = write!(text, "  [{state}]");
    }
    text
}

/// How much of a limit is used; nothing without one.
fn bar(ratio: Option<f64>, width: u16, look: Look) -> String {
    const EIGHTHS: [char; 8] =
        [' ', '\u{258f}', '\u{258e}', '\u{258d}', '\u{258c}', '\u{258b}', '\u{258a}', '\u{2589}'];
    let Some(ratio) = ratio else { return String::new() };
    let width = usize::from(width);
    if !look.unicode {
        let inner = width.saturating_sub(2);
        let full = (ratio.clamp(0.0, 1.0) * inner as f64).round() as usize;
        return format!("[{:<1$}]", "#".repeat(full), inner);
    }
    let eighths = (ratio.clamp(0.0, 1.0) * (8 * width) as f64).round() as usize;
    let mut text = "\u{2588}".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        text.push(EIGHTHS[eighths % 8]);
    }
    // What is left of it, so that one sees how far it goes.
    while text.chars().count() < width {
        text.push('\u{b7}');
    }
    text
}

/// One point of a curve.
fn level(ratio: f64, look: Look) -> char {
    const LEVELS: [char; 8] = [
        '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}',
        '\u{2588}',
    ];
    const ASCII: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];
    let at = (ratio.clamp(0.0, 1.0) * 7.0).round() as usize;
    if look.unicode { LEVELS[at.min(7)] } else { ASCII[at.min(7)] }
}

fn percent(cpus: f64) -> String {
    let percent = cpus * 100.0;
    if percent < 10.0 { format!("{percent:.1}") } else { format!("{percent:.0}") }
}

/// At most six characters: 812K, 1.5M, 23.4G.
fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64 / 1024.0;
    for unit in ["K", "M", "G", "T"] {
        if value < 1000.0 {
            return if value < 10.0 && unit != "K" {
                format!("{value:.1}{unit}")
            } else {
                format!("{value:.0}{unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.0}P")
}

const HELP: &str = "
  up, down, j, k    select          s              next order: cpu, memory,
  PgUp, PgDn        by ten                         tasks, name
  Home, End, g, G   first, last     c, m, t, n     that order
  right, l          show more       /              show only what contains
  left, h           show less       space          pause, go on
  Enter             processes       Ctrl-Z         to the background
  f                 freeze or thaw the cgroup
  x                 kill everything in the cgroup
  q, Esc            quit

  Figures of a cgroup include those below it. Bars show how much of a limit is
  used. ~: summed resident sets, which count shared pages more than once.
  Curves: CPU over the last minute. Of processes, TASKS are threads; [Z] ended,
  [T] stopped, [t] traced, [D] waits where no signal ends it.
";

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::model::tests::sample;
    use super::*;

    const PLAIN: Look = Look { colour: false, unicode: true };

    fn picture(model: &Model, look: Look, width: u16, height: u16) -> String {
        let area = Rect::new(0, 0, width, height);
        let mut cells = Buffer::empty(area);
        frame(model, look, area, &mut cells);
        lines(&cells)
    }

    fn busy() -> Model {
        let mut model = Model::new();
        let begun = Instant::now();
        for second in 0..20_u64 {
            let used = second * (second % 5) * 100_000;
            model.update(sample(begun + Duration::from_secs(second), used));
        }
        model
    }

    #[test]
    fn a_picture_at_80_by_24() {
        let text = picture(&busy(), PLAIN, 80, 24);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 24, "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
        assert!(lines[0].starts_with("cgrove top  2 runs  4 tasks"), "{text}");
        assert!(lines[1].starts_with("NAME") && lines[1].ends_with("LAST MINUTE"), "{text}");
        assert!(lines[2].contains("\u{25be} build") && lines[2].contains("3/10"), "{text}");
        assert!(lines[2].contains("\u{2588}\u{258a}"), "a bar of three tenths: {text}");
        assert!(lines[23].ends_with("q quit"), "{text}");
    }

    #[test]
    fn narrow_and_plain_terminals_lose_no_figures() {
        for (width, look) in [(60, PLAIN), (40, PLAIN), (60, Look { unicode: false, ..PLAIN })] {
            let text = picture(&busy(), look, width, 15);
            assert!(text.contains("3/10") && text.contains("CPU%"), "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= width.into()), "{text}");
            assert!(look.unicode || text.is_ascii(), "{text}");
        }
        assert_eq!(picture(&busy(), PLAIN, 12, 2), "too small\n");
    }

    #[test]
    fn the_selection_stays_in_sight() {
        let mut model = busy();
        model.expand_all();
        model.step(0);
        model.update(sample(Instant::now(), 0));
        model.step(isize::MAX);
        let name = model.selected_row().unwrap().name.clone();
        assert!(picture(&model, PLAIN, 80, 6).contains(&name));
    }

    #[test]
    fn empty_states_say_what_to_do() {
        let mut model = Model::new();
        assert!(picture(&model, PLAIN, 80, 24).contains("looking"));
        let at = Instant::now();
        model.update(super::super::sample::Sample { at, runs: Vec::new(), trouble: None });
        assert!(picture(&model, PLAIN, 80, 24).contains("cgrove run --"));
        model.mode = Mode::Help;
        let help = picture(&model, PLAIN, 80, 24);
        assert!(
            help.contains("kill everything") && help.contains("waits where no signal"),
            "{help}"
        );
    }

    #[test]
    fn sizes_are_short() {
        let all = [0, 1023, 1 << 20, 999 << 20, 1_500_000_000, u64::MAX].map(bytes);
        assert_eq!(all, ["0K", "1K", "1.0M", "999M", "1.4G", "16384P"]);
    }
}
