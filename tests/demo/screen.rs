//! What the demo shows: calm lines, and on a terminal one that moves.

use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use crate::harness::proxy::NamedRow;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";
/// To the line's start, and the line emptied.
const CLEAR: &str = "\r\x1b[K";
/// Columns of the label of a line.
const LABEL: usize = 12;
/// Columns of a bar that stands for the longest phase.
const BAR: u32 = 24;

/// Standard output.
pub(crate) struct Screen {
    terminal: bool,
    begun: Instant,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self {
            terminal: stdout().is_terminal(),
            begun: Instant::now(),
        }
    }

    /// A heading.
    pub(crate) fn chapter(&mut self, title: &str) {
        let at = self.begun.elapsed().as_secs();
        self.line(&format!(
            "\n{}  {}",
            self.paint(BOLD, title),
            self.paint(DIM, &format!("{at} s"))
        ));
    }

    /// What is going on right now. Only on a terminal; the next line takes its place.
    pub(crate) fn busy(&mut self, what: &str) {
        if self.terminal {
            print!("{CLEAR}  {DIM}{what}{PLAIN}");
            let _ = stdout().flush();
        }
    }

    /// Something that is complete now.
    pub(crate) fn done(&mut self, label: &str, what: &str, took: Duration) {
        let took = self.paint(DIM, &format!("({:.1} s)", took.as_secs_f64()));
        self.line(&format!("  {label:<LABEL$} {what} {took}"));
    }

    /// A labelled fact.
    pub(crate) fn label(&mut self, label: &str, what: &str) {
        self.line(&format!("  {label:<LABEL$} {what}"));
    }

    /// A remark.
    pub(crate) fn note(&mut self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// The console's answer to SWITCHOVER and FAILOVER: one line per phase.
    pub(crate) fn phases(&mut self, rows: &[NamedRow]) {
        let figure = |row: &NamedRow| {
            row.get("ms")
                .and_then(|ms| ms.parse::<f64>().ok())
                .unwrap_or_default()
        };
        let cell = |row: &NamedRow, name| row.get(name).cloned().unwrap_or_default();
        let single = |row: &&NamedRow| row.get("phase").is_some_and(|phase| phase != "total");
        let longest = rows.iter().filter(single).map(figure).fold(0.001, f64::max);
        for row in rows {
            let phase = cell(row, "phase");
            let width = (figure(row) / longest * f64::from(BAR)).clamp(0.0, f64::from(BAR));
            let bar = if phase == "total" {
                String::new()
            } else {
                "▪".repeat(width as usize)
            };
            let text = format!(
                "  {phase:<LABEL$} {:>9.1} ms  {bar:<width$}  {}",
                figure(row),
                cell(row, "detail"),
                width = BAR as usize
            );
            let text = text.trim_end();
            self.line(&if phase == "total" {
                self.paint(GREEN, text)
            } else {
                text.to_owned()
            });
        }
    }

    /// An error that was to be expected.
    pub(crate) fn error(&mut self, message: &str, detail: Option<&str>) {
        self.line(&format!("  ERROR:  {message}"));
        for line in detail.unwrap_or_default().lines() {
            self.line(&format!("  DETAIL: {line}"));
        }
    }

    /// Something that should not be.
    pub(crate) fn problem(&mut self, text: &str) {
        self.line(&self.paint(RED, &format!("  wrong: {text}")));
    }

    /// Rows of equal length, the first one the heading; the first column is text, the others are
    /// figures.
    pub(crate) fn table(&mut self, rows: &[Vec<String>]) {
        let columns = rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns).filter_map(width).collect();
        self.line("");
        for (number, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate();
            let text = cells.fold(String::new(), |text, (column, (cell, width))| {
                if column == 0 {
                    format!("  {cell:<width$}")
                } else {
                    format!("{text}  {cell:>width$}")
                }
            });
            self.line(&if number == 0 {
                self.paint(DIM, &text)
            } else {
                text
            });
        }
        self.line("");
    }

    fn line(&self, text: &str) {
        let clear = if self.terminal { CLEAR } else { "" };
        println!("{clear}{text}");
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.terminal {
            format!("{colour}{text}{PLAIN}")
        } else {
            text.to_owned()
        }
    }
}
