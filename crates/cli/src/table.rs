//! Tables for people: columns as wide as they need to be, lines of at most 80 columns.
//!
//! Names are never cut, because people copy them. One column may wrap instead; what has to be said about a row in a
//! sentence follows it on lines of its own.

/// The width that every terminal, mail and ticket shows whole.
pub(crate) const WIDTH: usize = 80;

/// The least that the wrapping column keeps, so that a long name elsewhere doesn't make it one letter wide.
const WRAPPED_AT_LEAST: usize = 12;

/// Rows under a header; every row has as many cells as the header.
#[derive(Debug)]
pub(crate) struct Table<const COLUMNS: usize> {
    header: [&'static str; COLUMNS],
    wraps: usize,
    rows: Vec<Row<COLUMNS>>,
}

#[derive(Debug)]
struct Row<const COLUMNS: usize> {
    cells: [String; COLUMNS],
    notes: Vec<String>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// An empty table whose column number `wraps` gives way when a line gets too long.
    pub(crate) fn new(header: [&'static str; COLUMNS], wraps: usize) -> Self {
        Self { header, wraps, rows: Vec::new() }
    }

    /// Adds a row and the sentences that explain it.
    pub(crate) fn row(&mut self, cells: [String; COLUMNS], notes: Vec<String>) {
        self.rows.push(Row { cells, notes });
    }

    /// The lines, without a newline after the last.
    pub(crate) fn render(&self) -> String {
        let widths = self.widths();
        let indent = widths.first().copied().unwrap_or(0).min(WIDTH / 4) + 2;
        let mut lines = Vec::new();
        self.push_row(&mut lines, &self.header.map(str::to_owned), &widths);
        for row in &self.rows {
            self.push_row(&mut lines, &row.cells, &widths);
            for note in &row.notes {
                lines.extend(
                    wrap(note, WIDTH - indent).into_iter().map(|line| format!("{:indent$}{line}", "")),
                );
            }
        }
        lines.join("\n")
    }

    fn widths(&self) -> [usize; COLUMNS] {
        let mut widths = self.header.map(width);
        for row in &self.rows {
            for (width_so_far, cell) in widths.iter_mut().zip(&row.cells) {
                *width_so_far = (*width_so_far).max(width(cell));
            }
        }
        let others: usize = widths.iter().sum::<usize>() - widths[self.wraps] + 2 * (COLUMNS - 1);
        let room = WIDTH.saturating_sub(others).max(WRAPPED_AT_LEAST);
        widths[self.wraps] = widths[self.wraps].min(room);
        widths
    }

    fn push_row(&self, lines: &mut Vec<String>, cells: &[String; COLUMNS], widths: &[usize; COLUMNS]) {
        let wrapped = wrap(&cells[self.wraps], widths[self.wraps]);
        for (number, part) in wrapped.iter().enumerate() {
            let mut line = String::new();
            for (column, cell) in cells.iter().enumerate() {
                let text = match column == self.wraps {
                    true => part,
                    false if number == 0 => cell,
                    false => "",
                };
                line.push_str(text);
                line.extend(std::iter::repeat_n(' ', widths[column].saturating_sub(width(text)) + 2));
            }
            lines.push(line.trim_end().to_owned());
        }
    }
}

/// Breaks at blanks; a word longer than `room` keeps a line of its own. Never empty.
pub(crate) fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if width(line) + 1 + width(word) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(texts: [&str; 3]) -> [String; 3] {
        texts.map(str::to_owned)
    }

    #[test]
    fn columns_line_up_and_notes_follow() {
        let mut table = Table::new(["NODE", "SERVICES", "RTT"], 1);
        table.row(cells(["edge-7", "rpc, ssh", "38 ms"]), Vec::new());
        table.row(cells(["e", "rpc", "-"]), vec!["last end: no heartbeat for 20 s".to_owned()]);
        assert_eq!(
            table.render(),
            "NODE    SERVICES  RTT\n\
             edge-7  rpc, ssh  38 ms\n\
             e       rpc       -\n        last end: no heartbeat for 20 s"
        );
    }

    #[test]
    fn nothing_passes_80_columns_except_a_name_that_is_longer() {
        let mut table = Table::new(["NODE", "SERVICES", "RTT"], 1);
        let many = (0..40).map(|n| format!("service-{n}")).collect::<Vec<_>>().join(", ");
        table.row(["n".repeat(40), many.clone(), "38 ms".to_owned()], vec![many.clone()]);
        let text = table.render();
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.lines().count() > 10, "{text}");
        assert!(many.split(", ").all(|name| text.contains(name)), "{text}");

        let mut table = Table::new(["NODE", "SERVICES", "RTT"], 1);
        table.row(["n".repeat(63), "rpc, ssh".to_owned(), "38 ms".to_owned()], Vec::new());
        assert!(table.render().contains(&"n".repeat(63)), "names are never cut");
    }
}
