//! Aligned columns without borders, as docker has them.

use crate::error::Result;

/// Which side of a column its cells keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table that is printed whole.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: impl IntoIterator<Item = (&'static str, Align)>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|it| printable(&it)).collect());
    }

    pub(crate) fn print(&self) -> Result<()> {
        crate::output::line(self.render())
    }

    fn render(&self) -> String {
        let heading: Vec<String> = self.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        let width = |index: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            cells.chain(heading.get(index)).map(|it| it.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.columns.len()).map(width).collect();
        let titled = heading.iter().any(|it| !it.is_empty());
        let lines = titled.then_some(&heading).into_iter().chain(&self.rows).map(|row| {
            let cells = row.iter().zip(&self.columns).zip(&widths).map(|((cell, (_, align)), width)| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// What a cell or an image calls itself must not move the cursor of whoever lists it.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_are_harmless() {
        let mut table = Table::new([("NAME", Align::Left), ("SIZE", Align::Right), ("", Align::Left)]);
        table.row(["web".into(), "1".into(), String::new()]);
        table.row(["a\x1b[2Jlonger".into(), "1000".into(), "x".into()]);
        assert_eq!(table.render(), "NAME         SIZE\nweb             1\na?[2Jlonger  1000  x");
    }
}
