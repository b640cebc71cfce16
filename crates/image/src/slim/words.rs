//! A command line as one text, cut into words as a shell would, without anything else that a shell does.

use model::ParseError;

/// The words of a command line: blanks part them, quotes keep them together, a backslash takes the next letter as it is.
pub fn words(text: &str) -> Result<Vec<String>, ParseError> {
    let wrong = || ParseError::new("command", text, "words and quotes that are closed");
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().push(letters.next().ok_or_else(wrong)?),
            (letter, Some(open)) if letter == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (letter, None) if letter.is_whitespace() => words.extend(word.take()),
            (letter, _) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    if quote.is_some() || words.is_empty() { Err(wrong()) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_are_cut_as_a_shell_would() {
        let check = |text: &str, expected: &[&str]| assert_eq!(words(text).unwrap(), expected, "{text}");
        check("a b  c", &["a", "b", "c"]);
        check(r#"sqlite3 :memory: "select 'x y'""#, &["sqlite3", ":memory:", "select 'x y'"]);
        check(r#"a '' \"b\ c"#, &["a", "", "\"b c"]);
        for wrong in ["", "  ", "'a", "a \\"] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }
}
