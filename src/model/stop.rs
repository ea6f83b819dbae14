//! Stop strings in streamed text.

/// Passes streamed text on until a stop string is complete, and never shows a part of one.
///
/// Each stop string is matched by Knuth-Morris-Pratt, so the cost is one step per byte and stop string, and the
/// result does not depend on how the text was cut into pieces. The stop string that is complete first ends the text;
/// of several complete at the same byte, the longest.
#[derive(Clone, Debug)]
pub struct StopFilter {
    patterns: Vec<Pattern>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

/// What became of a piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filtered {
    /// Text that is no part of a stop string, whatever comes next.
    pub text: String,
    /// Whether a stop string is complete; it, and what came after it, is not in `text`.
    pub stopped: bool,
}

#[derive(Clone, Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each prefix of `bytes`, the length of the longest proper prefix that is also its suffix.
    borders: Vec<usize>,
    /// Bytes matched so far: the longest prefix of `bytes` that the text ends with.
    matched: usize,
}

impl StopFilter {
    /// A filter for `stops`; empty strings among them never match.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Self {
        let stops = stops.iter().map(AsRef::as_ref).filter(|stop| !stop.is_empty());
        Self { patterns: stops.map(Pattern::new).collect(), held: String::new() }
    }

    /// Takes the next piece of text; only if it `may_stop` can a stop string end in it. After a stop, further calls
    /// are meaningless.
    pub fn push(&mut self, piece: &str, may_stop: bool) -> Filtered {
        let start = self.held.len();
        self.held.push_str(piece);
        for (index, byte) in piece.bytes().enumerate() {
            let complete = self.patterns.iter_mut().filter_map(|pattern| pattern.step(byte)).max();
            if let Some(length) = complete.filter(|_| may_stop) {
                self.held.truncate(start + index + 1 - length);
                return Filtered { text: std::mem::take(&mut self.held), stopped: true };
            }
        }
        let hold = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        let held = self.held.split_off(self.held.len() - hold);
        Filtered { text: std::mem::replace(&mut self.held, held), stopped: false }
    }

    /// The text held back, once no more will come.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

impl Pattern {
    fn new(stop: &str) -> Self {
        let bytes = stop.as_bytes().to_vec();
        let mut borders = vec![0; bytes.len()];
        let mut border = 0;
        for end in 1..bytes.len() {
            while border > 0 && bytes[end] != bytes[border] {
                border = borders[border - 1];
            }
            border += usize::from(bytes[end] == bytes[border]);
            borders[end] = border;
        }
        Self { bytes, borders, matched: 0 }
    }

    /// Takes the next byte; the pattern's length if it is complete, after which it goes on from its longest border.
    fn step(&mut self, byte: u8) -> Option<usize> {
        while self.matched > 0 && byte != self.bytes[self.matched] {
            self.matched = self.borders[self.matched - 1];
        }
        self.matched += usize::from(byte == self.bytes[self.matched]);
        let complete = self.matched == self.bytes.len();
        if complete {
            self.matched = self.borders[self.matched - 1];
        }
        complete.then_some(self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text shown and the stop, for `text` in pieces of `size` bytes (cut at characters).
    fn run(stops: &[&str], text: &str, size: usize) -> (String, bool) {
        let mut filter = StopFilter::new(stops);
        let mut shown = String::new();
        let chars: Vec<char> = text.chars().collect();
        for piece in chars.chunks(size) {
            let Filtered { text, stopped } = filter.push(&piece.iter().collect::<String>(), true);
            shown += &text;
            if stopped {
                return (shown, true);
            }
        }
        (shown + &filter.finish(), false)
    }

    #[test]
    fn the_first_complete_stop_ends_the_text_however_it_is_cut() {
        for (stops, text, shown, stopped) in [
            (&["END"][..], "one EN two END three", "one EN two ", true),
            (&["END"], "no stop EN", "no stop EN", false),
            (&["\n\n", "###"], "a\nb\n\nc###", "a\nb", true),
            (&["abcd", "bc"], "xabcd", "xa", true),
            (&["bc", "abc"], "xabcd", "x", true),
            (&["aab"], "aaaab", "aa", true),
            (&["ababac"], "abababac!", "ab", true),
            (&["日本"], "こ日日本語", "こ日", true),
            (&["é"], "e\u{301} è é", "e\u{301} è ", true),
            (&[""], "empty never stops", "empty never stops", false),
            (&[], "none", "none", false),
        ] {
            for size in 1..=text.len() {
                let got = run(stops, text, size);
                assert_eq!(got, (shown.to_owned(), stopped), "{stops:?} in {text:?} by {size}");
            }
        }
    }

    #[test]
    fn the_beginning_of_a_stop_is_held_back_until_it_is_none() {
        let mut filter = StopFilter::new(&["<|end|>", "stop"]);
        let mut push = |piece| filter.push(piece, true).text;
        assert_eq!(push("text <"), "text ");
        assert_eq!(push("|en"), "");
        assert_eq!(push("t st"), "<|ent ");
        assert_eq!(push("ep s"), "step ");
        assert_eq!(filter.finish(), "s");
        assert_eq!(filter.finish(), "");
    }

    #[test]
    fn a_stop_may_begin_but_not_end_in_protected_text() {
        let mut filter = StopFilter::new(&["abab"]);
        assert_eq!(filter.push("xabab", false), Filtered { text: "xab".into(), stopped: false });
        assert_eq!(filter.push("ab", true), Filtered { text: String::new(), stopped: true });
        let mut filter = StopFilter::new(&["ab"]);
        assert_eq!(filter.push("abc a", false), Filtered { text: "abc ".into(), stopped: false });
        assert_eq!(filter.push("b", true), Filtered { text: String::new(), stopped: true });
    }
}
