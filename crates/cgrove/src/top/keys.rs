//! What keys do: to the model at once, to a run by a command that the other thread carries out.

use cgrove_host::error::HostError;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Key, Mode, Model, Sort};
use crate::live;

/// What is left to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Quit,
    /// To the background, as Ctrl-Z does elsewhere.
    Stop,
    Freeze(String, bool),
    Kill(String),
}

impl Command {
    /// Does it to the run, and says what was done.
    pub fn carry_out(&self) -> Result<String, HostError> {
        match self {
            Command::Freeze(path, true) => {
                live::set_frozen(path, true).map(|()| format!("{path} is frozen"))
            }
            Command::Freeze(path, false) => {
                live::set_frozen(path, false).map(|()| format!("{path} goes on"))
            }
            Command::Kill(path) => {
                live::set(path, "cgroup.kill", b"1".to_vec()).map(|()| format!("{path} is killed"))
            }
            Command::Quit | Command::Stop => Ok(String::new()),
        }
    }
}

/// A key was pressed.
pub fn pressed(model: &mut Model, key: KeyEvent) -> Option<Command> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c' | 'd') if control => return Some(Command::Quit),
        KeyCode::Char('z') if control => return Some(Command::Stop),
        _ => {}
    }
    model.hush();
    match std::mem::replace(&mut model.mode, Mode::Browse) {
        Mode::Browse => browse(model, key.code),
        // Any key ends it.
        Mode::Help => None,
        Mode::Confirm(path) => {
            matches!(key.code, KeyCode::Char('y' | 'Y')).then_some(Command::Kill(path))
        }
        Mode::Filter => {
            filter(model, key.code);
            None
        }
    }
}

fn filter(model: &mut Model, code: KeyCode) {
    let mut text = model.filter.clone();
    match code {
        KeyCode::Enter => return,
        KeyCode::Esc => text.clear(),
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Char(c) => text.push(c),
        _ => {}
    }
    if code != KeyCode::Esc {
        model.mode = Mode::Filter;
    }
    model.set_filter(text);
}

fn browse(model: &mut Model, code: KeyCode) -> Option<Command> {
    match code {
        KeyCode::Char('q') => return Some(Command::Quit),
        KeyCode::Esc if model.filter.is_empty() => return Some(Command::Quit),
        KeyCode::Esc => model.set_filter(String::new()),
        KeyCode::Up | KeyCode::Char('k') => model.step(-1),
        KeyCode::Down | KeyCode::Char('j') => model.step(1),
        KeyCode::PageUp => model.step(-10),
        KeyCode::PageDown => model.step(10),
        KeyCode::Home | KeyCode::Char('g') => model.step(isize::MIN),
        KeyCode::End | KeyCode::Char('G') => model.step(isize::MAX),
        KeyCode::Right | KeyCode::Char('l') => model.unfold(true),
        KeyCode::Left | KeyCode::Char('h') => model.unfold(false),
        KeyCode::Enter => model.unfold(!model.shows_processes()),
        KeyCode::Char('s') => model.set_sort(model.sort.next()),
        KeyCode::Char('c') => model.set_sort(Sort::Cpu),
        KeyCode::Char('m') => model.set_sort(Sort::Memory),
        KeyCode::Char('t') => model.set_sort(Sort::Tasks),
        KeyCode::Char('n') => model.set_sort(Sort::Name),
        KeyCode::Char(' ') => model.paused = !model.paused,
        KeyCode::Char('/') => model.mode = Mode::Filter,
        KeyCode::Char('?') | KeyCode::F(1) => model.mode = Mode::Help,
        KeyCode::Char('f') => {
            let (path, frozen) = group(model)?;
            return Some(Command::Freeze(path, !frozen));
        }
        KeyCode::Char('x') => {
            let (path, _) = group(model)?;
            model.mode = Mode::Confirm(path);
        }
        _ => {}
    }
    None
}

/// The selected cgroup, and whether it is frozen.
fn group(model: &mut Model) -> Option<(String, bool)> {
    match model.selected_row().map(|row| (row.key.clone(), row.frozen)) {
        Some((Key::Group(path), frozen)) => Some((path, frozen)),
        Some(_) => {
            model.say("that is a process: select its cgroup to freeze or kill it".to_owned());
            None
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::model::tests::sample;
    use super::*;

    fn press(model: &mut Model, code: KeyCode) -> Option<Command> {
        pressed(model, KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn a_kill_wants_a_second_key() {
        let mut model = Model::new();
        model.update(sample(Instant::now(), 0));
        assert_eq!(press(&mut model, KeyCode::Char('x')), None);
        assert_eq!(model.mode, Mode::Confirm("build".to_owned()));
        assert_eq!(press(&mut model, KeyCode::Enter), None);
        assert_eq!(model.mode, Mode::Browse);
        press(&mut model, KeyCode::Char('x'));
        let kill = press(&mut model, KeyCode::Char('y'));
        assert_eq!(kill, Some(Command::Kill("build".to_owned())));
    }

    #[test]
    fn a_filter_is_typed_and_taken_back() {
        let mut model = Model::new();
        model.update(sample(Instant::now(), 0));
        for code in [KeyCode::Char('/'), KeyCode::Char('q'), KeyCode::Backspace, KeyCode::Char('i')]
        {
            assert_eq!(press(&mut model, code), None);
        }
        assert_eq!((model.filter.as_str(), model.rows().len()), ("i", 2));
        press(&mut model, KeyCode::Enter);
        assert_eq!(press(&mut model, KeyCode::Esc), None);
        assert_eq!(model.rows().len(), 4);
        assert_eq!(press(&mut model, KeyCode::Esc), Some(Command::Quit));
    }

    #[test]
    fn a_process_is_not_frozen_alone() {
        let mut model = Model::new();
        model.expand_all();
        model.update(sample(Instant::now(), 0));
        model.set_filter("job-10".to_owned());
        model.step(1);
        assert_eq!(press(&mut model, KeyCode::Char('f')), None);
        assert!(model.message().unwrap().contains("its cgroup"));
        model.step(-1);
        assert_eq!(
            press(&mut model, KeyCode::Char('f')),
            Some(Command::Freeze("build".to_owned(), true))
        );
    }
}
