//! Words, numbers and punctuation, with their lines.

use crate::fault::LoadError;

/// A token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Token<'a> {
    /// A directive, opcode with its modifiers, register or symbol: `.reg`, `ld.global.f32`, `%tid.x`, `$L__BB0_1`.
    Word(&'a str),
    /// An integer.
    Int(u64),
    /// `0f…`.
    F32(u32),
    /// `0d…` or a decimal fraction.
    F64(u64),
    /// `"…"`, without the quotes.
    Text(&'a str),
    /// Anything else.
    Punct(char),
    /// The end of the input.
    End,
}

/// Tokens of a text, one at a time.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// The line of the next token, from 1.
    pub line: u32,
}

/// An error at a line.
pub fn error<T>(line: u32, message: impl Into<String>) -> Result<T, LoadError> {
    Err(LoadError { line, message: message.into(), unsupported: false })
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, line: 1 }
    }

    fn skip_blanks(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(&c) = bytes.get(self.at) {
            let rest = &bytes[self.at..];
            if c.is_ascii_whitespace() || c == 0 {
                self.line += u32::from(c == b'\n');
                self.at += 1;
            } else if rest.starts_with(b"//") {
                self.at += rest.iter().position(|&c| c == b'\n').unwrap_or(rest.len());
            } else if rest.starts_with(b"/*") {
                let end = rest[2..].windows(2).position(|w| w == b"*/").map_or(rest.len(), |i| i + 4);
                self.line += rest[..end].iter().filter(|&&c| c == b'\n').count() as u32;
                self.at += end;
            } else {
                break;
            }
        }
    }

    pub fn next(&mut self) -> Result<Token<'a>, LoadError> {
        self.skip_blanks();
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        let bytes = rest.as_bytes();
        match first {
            'a'..='z' | 'A'..='Z' | '_' | '$' | '%' | '.' => {
                let mut n = 1;
                while let Some(c) = bytes.get(n) {
                    let colons = bytes[n..].starts_with(b"::");
                    if c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'.') {
                        n += 1;
                    } else if colons && bytes.get(n + 2).is_some_and(u8::is_ascii_alphanumeric) {
                        n += 2;
                    } else {
                        break;
                    }
                }
                self.at += n;
                Ok(Token::Word(&rest[..n]))
            }
            '0'..='9' => {
                let n = bytes
                    .iter()
                    .enumerate()
                    .take_while(|&(i, c)| {
                        let exponent = i > 0 && matches!(bytes[i - 1], b'e' | b'E');
                        c.is_ascii_alphanumeric()
                            || *c == b'.'
                            || (exponent && matches!(c, b'+' | b'-') && !rest.starts_with("0x"))
                    })
                    .count();
                self.at += n;
                self.number(&rest[..n])
            }
            '"' => {
                let Some(n) = rest[1..].find('"') else { return error(self.line, "a string has no end") };
                self.line += rest[1..=n].matches('\n').count() as u32;
                self.at += n + 2;
                Ok(Token::Text(&rest[1..=n]))
            }
            c => {
                self.at += c.len_utf8();
                Ok(Token::Punct(c))
            }
        }
    }

    fn number(&self, text: &str) -> Result<Token<'a>, LoadError> {
        let wrong = || LoadError {
            line: self.line,
            message: format!("{text:?} is not a number"),
            unsupported: false,
        };
        let bits = |digits: &str, n: usize| match digits.len() == n {
            true => u64::from_str_radix(digits, 16).map_err(|_| wrong()),
            false => Err(wrong()),
        };
        let lower = text.to_ascii_lowercase();
        if let Some(digits) = lower.strip_prefix("0f") {
            return Ok(Token::F32(bits(digits, 8)? as u32));
        }
        if let Some(digits) = lower.strip_prefix("0d") {
            return Ok(Token::F64(bits(digits, 16)?));
        }
        let hex = lower.starts_with("0x");
        if !hex && lower.contains(['.', 'e']) {
            return lower.parse::<f64>().map(|x| Token::F64(x.to_bits())).map_err(|_| wrong());
        }
        let int = lower.strip_suffix('u').unwrap_or(&lower);
        let value = if hex {
            u64::from_str_radix(&int[2..], 16)
        } else if let Some(digits) = int.strip_prefix("0b") {
            u64::from_str_radix(digits, 2)
        } else if int.len() > 1 && int.starts_with('0') {
            u64::from_str_radix(int, 8)
        } else {
            int.parse()
        };
        value.map(Token::Int).map_err(|_| wrong())
    }
}
