//! A source becomes words: names, numbers, texts and signs. Comments begin with `//`.

use crate::error::{Error, Place, Result};

/// A word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    Name(String),
    /// A number, and its digits as they were written, which a pattern of bits needs.
    Number(u128, String),
    Text(String),
    Sign(&'static str),
    End,
}

/// A word and where it begins.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) word: Word,
    pub(crate) place: Place,
}

/// Longest first: the first that fits is taken.
const SIGNS: &[&str] = &[
    "->", "=>", "==", "!=", "<=", ">=", "<<", ">>", "&&", "||", "..", "(", ")", "[", "]", "{", "}", ",", ";", ":", "=",
    "<", ">", "+", "-", "*", "&", "|", "^", "!", "~", "?",
];

/// Splits source number `source`.
pub(crate) fn split(source: u32, text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at += blank(&text[at..]);
        let place = Place { source, offset: at as u32 };
        let rest = &text[at..];
        let Some(first) = rest.chars().next() else {
            tokens.push(Token { word: Word::End, place });
            return Ok(tokens);
        };
        let (word, length) = match first {
            'a'..='z' | 'A'..='Z' | '_' => name(rest),
            '0'..='9' => number(rest).ok_or_else(|| Error::at(place, "this is no number"))?,
            '"' => quoted(rest).ok_or_else(|| Error::at(place, "this text has no end on its line"))?,
            _ => sign(rest).ok_or_else(|| Error::at(place, format!("'{first}' means nothing here")))?,
        };
        tokens.push(Token { word, place });
        at += length;
    }
}

/// How much is white space and comments.
fn blank(text: &str) -> usize {
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let trimmed = rest.trim_start();
        at += rest.len() - trimmed.len();
        if !trimmed.starts_with("//") {
            return at;
        }
        at += trimmed.find('\n').unwrap_or(trimmed.len());
    }
}

fn name(text: &str) -> (Word, usize) {
    let length = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    (Word::Name(text[..length].into()), length)
}

fn number(text: &str) -> Option<(Word, usize)> {
    let length = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    let written = &text[..length];
    let digits = written.replace('_', "");
    let value = match digits.get(..2) {
        Some("0x") => u128::from_str_radix(&digits[2..], 16),
        Some("0b") => u128::from_str_radix(&digits[2..], 2),
        _ => digits.parse(),
    };
    Some((Word::Number(value.ok()?, digits), length))
}

fn quoted(text: &str) -> Option<(Word, usize)> {
    let inner = &text[1..];
    let length = inner.find(['"', '\n'])?;
    inner[length..].starts_with('"').then(|| (Word::Text(inner[..length].into()), length + 2))
}

fn sign(text: &str) -> Option<(Word, usize)> {
    SIGNS.iter().find(|sign| text.starts_with(**sign)).map(|sign| (Word::Sign(sign), sign.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart() {
        let words: Vec<Word> = split(0, "fn a_1(0x1f, 0b10) -> u8 // no\n== \"x y\" 0010")
            .unwrap()
            .into_iter()
            .map(|token| token.word)
            .collect();
        assert_eq!(
            words,
            [
                Word::Name("fn".into()),
                Word::Name("a_1".into()),
                Word::Sign("("),
                Word::Number(31, "0x1f".into()),
                Word::Sign(","),
                Word::Number(2, "0b10".into()),
                Word::Sign(")"),
                Word::Sign("->"),
                Word::Name("u8".into()),
                Word::Sign("=="),
                Word::Text("x y".into()),
                Word::Number(10, "0010".into()),
                Word::End,
            ]
        );
    }
}
