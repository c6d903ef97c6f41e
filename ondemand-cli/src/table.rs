//! Tables for people: columns and nothing else, so that they are read as well without a terminal.

use comfy_table::Table;
use comfy_table::presets::NOTHING;

/// Lays rows out under a header.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    table.add_rows(rows);
    lay_out(table)
}

/// Lays out names and values.
pub(crate) fn fields<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.add_rows(rows.into_iter().map(|(name, value)| [name.to_owned(), value]));
    lay_out(table)
}

fn lay_out(mut table: Table) -> String {
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_trimmed() {
        let text = table(["ID", "NAME"], [["1".into(), "one".into()], ["1000".into(), "x".into()]]);
        assert_eq!(text, "ID    NAME\n1     one\n1000  x");
        assert_eq!(fields([("a", "1".into()), ("long", "2".into())]), "a     1\nlong  2");
    }
}
