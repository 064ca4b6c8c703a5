//! Manual pages, from the same definitions as the command line.
//!
//! cgrove(1) has the topics as sections; every command has a page of its own, as with git.

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::Cli;
use super::topics::TOPICS;

/// cgrove(1).
pub(super) fn first() -> String {
    let (_, page) = pages().swap_remove(0);
    String::from_utf8_lossy(&page).into_owned()
}

/// Every page with its name, cgrove(1) first.
pub(super) fn pages() -> Vec<(String, Vec<u8>)> {
    let mut cli = Cli::command();
    cli.build();
    let mut pages = vec![("cgrove.1".to_owned(), overview(&cli))];
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = format!("cgrove-{}", command.get_name());
        // A page is found by its name, and its head says that one.
        let command = command.clone().display_name(&name);
        let man = Man::new(command).manual(MANUAL);
        let mut page = Vec::new();
        // Writing to memory cannot fail.
        let _ = man.render(&mut page);
        let _ = see_also().to_writer(&mut page);
        pages.push((format!("{name}.1"), page));
    }
    pages
}

const MANUAL: &str = "cgrove";

fn overview(cli: &Command) -> Vec<u8> {
    let man = Man::new(cli.clone()).manual(MANUAL);
    let mut page = Vec::new();
    let _ = man.render_title(&mut page);
    let _ = man.render_name_section(&mut page);
    let _ = man.render_synopsis_section(&mut page);
    let _ = man.render_description_section(&mut page);
    let mut roff = Roff::default();
    roff.control("SH", ["COMMANDS"]);
    for command in cli.get_subcommands() {
        roff.control("TP", []);
        roff.text([bold(format!("cgrove {}", command.get_name()))]);
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        roff.text([roman(about)]);
    }
    for topic in &TOPICS {
        roff.control("SH", [topic.name.to_uppercase().replace('-', " ").as_str()]);
        // Tables and commands stand in columns: as they are.
        roff.control("nf", []);
        for line in topic.text.lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    let _ = roff.to_writer(&mut page);
    page
}

fn see_also() -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("cgrove"), roman("(1), "), bold("cgroups"), roman("(7)")]);
    roff
}
