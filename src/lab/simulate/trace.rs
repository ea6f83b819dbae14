//! Request traces, from files: who asked for how much, and when.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// A request of a trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceRequest {
    /// Seconds since the trace began.
    pub arrival: f64,
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Tokens that the model generates.
    pub output: u32,
    /// Whom to account the service to.
    pub tenant: u32,
    /// Smaller is more urgent.
    pub priority: i32,
    /// Output length that a predictor expects, if there is one.
    pub predicted: Option<u32>,
    /// Its ids in [`Trace::hash_ids`]: start and count.
    pub hashes: (u32, u32),
}

/// Requests in order of arrival.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Where it came from, to print.
    pub name: String,
    /// In order of arrival.
    pub requests: Vec<TraceRequest>,
    /// One id for each [`Trace::HASH_BLOCK`] tokens of a prompt; equal ids at the beginning are equal prefixes. Requests
    /// without ids share nothing.
    pub hash_ids: Vec<u32>,
}

impl Trace {
    /// Tokens that one hash id stands for.
    pub const HASH_BLOCK: usize = 512;

    /// Reads a file: Azure's CSV if its first line begins with `TIMESTAMP`, else JSON lines as Mooncake's.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Config`] naming the file, the line and the field of the first malformed row.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// As [`Self::read`], from text; `name` is for messages.
    ///
    /// # Errors
    /// As there.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut trace = Self { name: name.into(), ..Self::default() };
        let csv = text.starts_with("TIMESTAMP");
        for (index, line) in text.lines().enumerate() {
            let bad = |(field, got, want): Bad| {
                Error::config(format!("{name}: line {}, {field}", index + 1), got, want)
            };
            match csv {
                true if index == 0 => {
                    if line.trim_end() != AZURE_HEADER {
                        return Err(bad(("header".into(), line.into(), AZURE_HEADER.into())));
                    }
                }
                true => trace.requests.push(azure_row(line).map_err(bad)?),
                false => trace.push_json(line).map_err(bad)?,
            }
        }
        if trace.requests.is_empty() {
            return Err(Error::config(name, "without requests", "at least one"));
        }
        trace.requests.sort_by(|a, b| a.arrival.total_cmp(&b.arrival));
        let first = trace.requests[0].arrival;
        trace.requests.iter_mut().for_each(|request| request.arrival -= first);
        Ok(trace)
    }

    /// The hash ids of a request's prompt.
    pub fn hashes(&self, request: &TraceRequest) -> &[u32] {
        &self.hash_ids[request.hashes.0 as usize..][..request.hashes.1 as usize]
    }

    /// Requests a second, over the whole trace.
    pub fn rate(&self) -> f64 {
        let last = self.requests.last().map_or(0.0, |request| request.arrival);
        if last > 0.0 { (self.requests.len() - 1) as f64 / last } else { f64::INFINITY }
    }

    fn push_json(&mut self, line: &str) -> Result<(), Bad> {
        let row: JsonRow = serde_json::from_str(line).map_err(|e| {
            (
                "row".to_owned(),
                e.to_string(),
                "an object with timestamp in ms, input_length, output_length".to_owned(),
            )
        })?;
        if !row.timestamp.is_finite() {
            return Err(("timestamp".into(), row.timestamp.to_string(), "finite milliseconds".into()));
        }
        let (prompt, output) =
            (at_least_1("input_length", row.input_length)?, at_least_1("output_length", row.output_length)?);
        let want = (prompt as usize).div_ceil(Self::HASH_BLOCK);
        if !row.hash_ids.is_empty() && row.hash_ids.len() != want {
            return Err((
                "hash_ids".into(),
                format!("{} ids", row.hash_ids.len()),
                format!("{want}, one for each 512 tokens"),
            ));
        }
        if let Some(id) = row.hash_ids.iter().find(|&&id| id >= 1 << 31) {
            return Err(("hash_ids".into(), id.to_string(), "ids below 2^31".into()));
        }
        let hashes = (self.hash_ids.len() as u32, row.hash_ids.len() as u32);
        self.hash_ids.extend(row.hash_ids);
        self.requests.push(TraceRequest {
            arrival: row.timestamp / 1e3,
            prompt,
            output,
            tenant: row.tenant,
            priority: row.priority,
            predicted: None,
            hashes,
        });
        Ok(())
    }
}

/// Field, value, and what was wanted.
type Bad = (String, String, String);

/// Azure's columns; see <https://github.com/Azure/AzurePublicDataset>.
const AZURE_HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

fn azure_row(line: &str) -> Result<TraceRequest, Bad> {
    let cells: Vec<&str> = line.trim_end().split(',').collect();
    let [time, prompt, output] = cells[..] else {
        return Err(("row".into(), format!("{line:?}"), format!("three cells, {AZURE_HEADER}")));
    };
    let count = |field: &str, text: &str| {
        let number = text
            .parse::<u32>()
            .map_err(|_| (field.into(), format!("{text:?}"), "a number of tokens".into()))?;
        at_least_1(field, number)
    };
    let arrival = seconds(time).ok_or_else(|| {
        ("TIMESTAMP".to_owned(), format!("{time:?}"), "YYYY-MM-DD HH:MM:SS.fraction".to_owned())
    })?;
    Ok(TraceRequest {
        arrival,
        prompt: count("ContextTokens", prompt)?,
        output: count("GeneratedTokens", output)?,
        ..TraceRequest::default()
    })
}

fn at_least_1(field: &str, count: u32) -> Result<u32, Bad> {
    if count == 0 { Err((field.into(), "0".into(), "at least 1 token".into())) } else { Ok(count) }
}

/// Seconds since 1970 of `2023-11-16 18:15:46.6805900`.
fn seconds(text: &str) -> Option<f64> {
    let (date, time) = text.split_once(' ')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<u32>().ok()?, time.next()?.parse::<u32>().ok()?);
    let second = time.next()?.parse::<f64>().ok()?;
    let fine = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60;
    if !(fine && (1970..10_000).contains(&year) && (0.0..61.0).contains(&second)) {
        return None;
    }
    // Days of the civil calendar, with years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    Some(days as f64 * 86_400.0 + f64::from(hour * 3600 + minute * 60) + second)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRow {
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u32>,
    #[serde(default)]
    tenant: u32,
    #[serde(default)]
    priority: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azure_rows() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.5000000,374,44\n\
                    2023-11-17 00:00:00.0000000,396,109";
        let trace = Trace::parse("t", text).unwrap();
        let rows: Vec<_> = trace.requests.iter().map(|r| (r.arrival, r.prompt, r.output)).collect();
        assert_eq!(rows, [(0.0, 374, 44), (5.0 * 3600.0 + 44.0 * 60.0 + 13.5, 396, 109)]);
    }

    #[test]
    fn dates() {
        // date -u -d '2024-02-29 12:00:01' +%s, and so on
        assert_eq!(seconds("1970-01-01 00:00:00.25"), Some(0.25));
        assert_eq!(seconds("2024-02-29 12:00:01.0"), Some(1_709_208_001.0));
        assert_eq!(seconds("2023-12-31 23:59:59"), Some(1_704_067_199.0));
        for bad in ["", "2023-11-16", "2023-13-16 00:00:00", "2023-11-16 24:00:00", "2023-11-16 1:00:x"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn mooncake_rows() {
        let text = "{\"timestamp\": 2000, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [0, 7]}\n\
                    {\"timestamp\": 1000, \"input_length\": 3, \"output_length\": 1}\n";
        let trace = Trace::parse("t", text).unwrap();
        assert_eq!((trace.requests[0].arrival, trace.requests[0].prompt), (0.0, 3));
        assert_eq!((trace.requests[1].arrival, trace.hashes(&trace.requests[1])), (1.0, &[0, 7][..]));
        assert_eq!(trace.rate(), 1.0);
    }

    #[test]
    fn malformed_rows_are_named() {
        let csv = |row: &str| format!("{AZURE_HEADER}\n2023-11-16 18:15:46.5,1,1\n{row}\n");
        let json = |row: &str| {
            format!("{{\"timestamp\":0,\"input_length\":1,\"output_length\":1}}\n\n{row}")
                .replace("\n\n", "\n")
        };
        for (text, want) in [
            (
                csv("2023-11-16 18:15:46.5,1"),
                "t: line 3, row is \"2023-11-16 18:15:46.5,1\", expected three cells",
            ),
            (csv("yesterday,1,1"), "t: line 3, TIMESTAMP is \"yesterday\", expected YYYY-MM-DD"),
            (csv("2023-11-16 18:15:46.5,-1,1"), "t: line 3, ContextTokens is \"-1\", expected a number"),
            (csv("2023-11-16 18:15:46.5,1,0"), "t: line 3, GeneratedTokens is 0, expected at least 1"),
            ("TIMESTAMP,Tokens\n".into(), "t: line 1, header is TIMESTAMP,Tokens, expected"),
            (json("{}"), "t: line 2, row is missing field `timestamp`"),
            (
                json("{\"timestamp\":0,\"input_length\":0,\"output_length\":1}"),
                "t: line 2, input_length is 0",
            ),
            (
                json("{\"timestamp\":0,\"input_length\":513,\"output_length\":1,\"hash_ids\":[1]}"),
                "t: line 2, hash_ids is 1 ids, expected 2",
            ),
            (json("nonsense"), "t: line 2, row is expected"),
            (String::new(), "t is without requests"),
        ] {
            let error = Trace::parse("t", &text).unwrap_err().to_string();
            assert!(error.starts_with(want), "{error:?} does not begin with {want:?}");
        }
    }
}
