//! Output for people: 80 columns, colour only on a terminal, `NO_COLOR` honoured.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Good,
    Bad,
    Note,
    Plain,
}

/// Prints a line; a reader that went away is no reason to panic.
pub(super) fn say(line: &str) {
    let _ = writeln!(stdout(), "{line}");
}

/// Prints a line with its mark.
pub(super) fn mark(mark: Mark, line: &str) {
    let (sign, colour) = match mark {
        Mark::Good => ("ok  ", "32"),
        Mark::Bad => ("FAIL", "31"),
        Mark::Note => ("note", "33"),
        Mark::Plain => ("    ", "0"),
    };
    let sign = if coloured() && mark != Mark::Plain {
        format!("\x1b[{colour}m{sign}\x1b[0m")
    } else {
        sign.to_owned()
    };
    for (index, part) in wrap(line, 74).into_iter().enumerate() {
        say(&if index == 0 {
            format!("{sign}  {part}")
        } else {
            format!("      {part}")
        });
    }
}

/// A word in a colour, where there are colours.
pub(super) fn tinted(word: &str, good: bool) -> String {
    if coloured() {
        format!("\x1b[{}m{word}\x1b[0m", if good { "32" } else { "31" })
    } else {
        word.to_owned()
    }
}

fn coloured() -> bool {
    stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Breaks a text at blanks; what has none stays whole.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let full = lines.last().is_some_and(|line| {
            !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width
        });
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// A time span in at most two units.
pub(super) fn span(millis: u64) -> String {
    let seconds = Duration::from_millis(millis).as_secs();
    match seconds {
        0 => format!("{millis} ms"),
        1..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (millis, text) in [
            (5, "5 ms"),
            (1_500, "1 s"),
            (300_000, "5 min"),
            (7_260_000, "2 h 1 min"),
            (200_000_000, "2 d 7 h"),
        ] {
            assert_eq!(span(millis), text);
        }
    }

    #[test]
    fn lines_are_broken_at_blanks() {
        assert_eq!(wrap("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrap("aaaaaaaaa b", 5), ["aaaaaaaaa", "b"]);
    }
}
