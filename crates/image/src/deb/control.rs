//! Debian's control format: paragraphs of `Name: value` lines, a value going on in lines that begin with white space.
//!
//! The reader borrows from the text and never fails: a line that is no field is skipped, as a damaged index must not
//! hide the packages after it. What a caller needs and does not find is the caller's error.

/// One paragraph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paragraph<'a>(&'a str);

/// The paragraphs of a control file or index, in order.
pub(crate) fn paragraphs(text: &str) -> impl Iterator<Item = Paragraph<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches('\n');
        if rest.is_empty() {
            return None;
        }
        let (paragraph, after) = rest.split_once("\n\n").unwrap_or((rest, ""));
        rest = after;
        Some(Paragraph(paragraph))
    })
}

impl<'a> Paragraph<'a> {
    /// Its fields in order: the name, and the value with its continuation lines, trimmed at both ends.
    pub(crate) fn fields(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let end = end_of_field(rest);
                let (field, after) = rest.split_at(end);
                rest = after.strip_prefix('\n').unwrap_or(after);
                let named = field.split_once(':').filter(|(name, _)| !name.starts_with([' ', '\t', '#']));
                if let Some((name, value)) = named {
                    return Some((name, value.trim()));
                }
            }
            None
        })
    }
}

/// Where the field at the beginning of `text` ends: at the first line end that no continuation line follows.
fn end_of_field(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(found) = text.get(from..).and_then(|rest| rest.find('\n')) {
        let end = from + found;
        if !matches!(bytes.get(end + 1), Some(b' ' | b'\t')) {
            return end;
        }
        from = end + 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_and_fields_are_read_in_order() {
        let text =
            "\nPackage: a\nDescription: one\n two\n .\n three\nnonsense\n# note: x\nVersion:1\n\n\n\nPackage: b\n";
        let all: Vec<_> = paragraphs(text).collect();
        assert_eq!(all.len(), 2);
        let fields: Vec<_> = all[0].fields().collect();
        assert_eq!(fields, [("Package", "a"), ("Description", "one\n two\n .\n three"), ("Version", "1")]);
        assert_eq!(all[1].fields().collect::<Vec<_>>(), [("Package", "b")]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "[a-c: \\n\\t#]{0,60}") {
            for paragraph in paragraphs(&text) {
                for (name, value) in paragraph.fields() {
                    proptest::prop_assert!(paragraph.0.contains(name) && paragraph.0.contains(value));
                }
            }
        }
    }
}
