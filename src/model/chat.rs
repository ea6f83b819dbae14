//! Chat templates: Jinja as transformers runs it.
//!
//! Source: `apply_chat_template` of transformers (`utils/chat_template_utils.py`).

use std::ffi::CString;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind, State};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or whatever else the template knows.
    pub role: String,
    /// The turn's text.
    pub content: String,
}

impl Message {
    /// A turn by `role` with the text `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// The special tokens that templates refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpecialTokens {
    /// Starts a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    /// Ends a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token: Option<String>,
    /// Pads a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<String>,
    /// Stands for what has no token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unk_token: Option<String>,
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: SpecialTokens,
    /// The file it came from, for messages.
    path: PathBuf,
}

impl ChatTemplate {
    const NAME: &'static str = "chat_template";
    /// Instructions a rendering may take, and memory in units of 64 bytes: some hundred times what a long conversation
    /// needs, and under a second.
    const FUEL: u64 = 5_000_000;

    /// Compiles `template`, which was found in the file `path`.
    ///
    /// # Errors
    /// [`Error::Model`] with the line of a syntax error.
    pub fn new(path: &Path, template: &str, tokens: SpecialTokens) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| Error::model(path, describe(&error)))?);
        environment.set_fuel(Some(Self::FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        let added = environment.add_template_owned(Self::NAME, without_generation_tags(template));
        added.map_err(|error| Error::model(path, describe(&error)))?;
        Ok(Self { environment, tokens, path: path.to_owned() })
    }

    /// The prompt for `messages`, ready to be encoded without adding special tokens.
    ///
    /// `add_generation_prompt` opens the assistant's turn. `extra` are further variables of the template, such as
    /// Qwen3's `enable_thinking`; they take precedence over the usual ones.
    ///
    /// # Errors
    /// [`Error::Model`] if the template fails, refuses the messages by `raise_exception`, or does not end.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        extra: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<String> {
        let mut variables = serde_json::json!({
            "messages": messages, "add_generation_prompt": add_generation_prompt, "tools": null, "documents": null,
        });
        let tokens = serde_json::json!(self.tokens);
        let all = variables.as_object_mut().expect("it was made as an object");
        all.extend(tokens.as_object().expect("a struct is an object").clone());
        all.extend(extra.clone());
        let template = self.environment.get_template(Self::NAME);
        let rendered = template.and_then(|template| template.render(Serde(&variables)));
        rendered.map_err(|error| Error::model(&self.path, describe(&error)))
    }
}

/// The error with its line and causes, without minijinja's excerpt of the source.
fn describe(error: &minijinja::Error) -> String {
    if error.kind() == ErrorKind::OutOfFuel {
        let limit = ChatTemplate::FUEL;
        return format!("chat template does not end: it took more than {limit} steps");
    }
    let mut text = format!("chat template: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, which mark the assistant's tokens for training and print
/// nothing, by tags that print nothing either.
fn without_generation_tags(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start..].find("%}").map(|end| start + end) else { break };
        let tag = &rest[start + 2..end];
        let name = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let tag = match name {
            "generation" => tag.replace(name, "if true"),
            "endgeneration" => tag.replace(name, "endif"),
            _ => tag.to_owned(),
        };
        out.push_str(&rest[..start + 2]);
        out.push_str(&tag);
        out.push_str("%}");
        rest = &rest[end + 2..];
    }
    out + rest
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time by `format`, as Python's `datetime.now().strftime(format)`.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let wrong =
        || minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: bad format {format:?}"));
    let c_format = CString::new(format).map_err(|_| wrong())?;
    let mut buffer = [0u8; 256];
    // SAFETY: `time` accepts null. `tm` is a plain struct of integers and a pointer, for which zeros are valid, and
    // `localtime_r` fills it from a valid `time_t`. `strftime` reads a C string and writes at most `buffer.len()` bytes.
    let length = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut local: libc::tm = std::mem::zeroed();
        libc::localtime_r(&now, &mut local);
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), c_format.as_ptr(), &local)
    };
    // 0 means that the result did not fit, or was empty.
    if length == 0 && !format.is_empty() {
        return Err(wrong());
    }
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False, indent=indent)` writes it: minijinja's own filter escapes
/// HTML and leaves no spaces.
fn to_json(state: &State, value: Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let wrong =
        |error: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value
                .serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
                .map_err(wrong)?;
        }
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)).map_err(wrong)?;
        }
    }
    state.consume_fuel(out.len() as u64 / 64)?;
    Ok(Value::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

/// A space after each comma and colon.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Result<ChatTemplate> {
        let tokens = SpecialTokens {
            bos_token: Some("<s>".to_owned()),
            eos_token: Some("</s>".to_owned()),
            ..SpecialTokens::default()
        };
        ChatTemplate::new(Path::new("chat_template.jinja"), text, tokens)
    }

    fn render(text: &str) -> String {
        let messages = [Message::new("user", "Hi")];
        match template(text).and_then(|template| template.render(&messages, true, &Default::default())) {
            Ok(text) => text,
            Err(error) => error.to_string(),
        }
    }

    #[derive(Deserialize)]
    struct Case {
        template: String,
        messages: Vec<Message>,
        add_generation_prompt: bool,
        extra: serde_json::Map<String, serde_json::Value>,
        rendered: Option<String>,
        error: Option<String>,
    }

    /// `cases.json` holds what jinja2 3.1.6 renders with the options and functions of transformers 5.23.
    #[test]
    fn templates_render_as_jinja2_does() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat");
        let cases = std::fs::read(folder.join("cases.json")).unwrap();
        let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
        assert_eq!(cases.len(), 19);
        for case in cases {
            let text = std::fs::read_to_string(folder.join(format!("{}.jinja", case.template))).unwrap();
            let got =
                template(&text).unwrap().render(&case.messages, case.add_generation_prompt, &case.extra);
            match (got, case.rendered, case.error) {
                (Ok(got), Some(want), None) => assert_eq!(got, want, "{}", case.template),
                (Err(got), None, Some(want)) => {
                    assert!(got.to_string().contains(&want), "{}: {got}", case.template)
                }
                (got, want, error) => panic!("{}: {got:?}, expected {want:?} or {error:?}", case.template),
            }
        }
    }

    #[test]
    fn a_template_that_does_not_end_is_stopped() {
        let nested = "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) %}x\
            {% endfor %}{% endfor %}{% endfor %}";
        let doubling = "{% set ns = namespace(x='0123456789') %}{% for i in range(60) %}\
            {% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
        for text in [nested, doubling] {
            let got = render(text);
            assert_eq!(
                got,
                "chat_template.jinja: chat template does not end: it took more than 5000000 steps"
            );
        }
        let recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        assert!(render(recursion).contains("recursion limit"), "{}", render(recursion));
    }

    #[test]
    fn a_template_that_fails_says_where() {
        for (text, want) in [
            ("line one\n{% if %}", "(in chat_template:2)"),
            ("{{ messages[0].role.nonsense() }}", "nonsense"),
            ("{{ raise_exception('roles ' ~ messages[0].role) }}", "roles user"),
            ("{{ unknown_function() }}", "unknown_function"),
            ("{{ messages | unknown_filter }}", "unknown_filter"),
            ("{% include 'other' %}", "other"),
            ("{{ strftime_now('a\0b') }}", "strftime_now: bad format"),
        ] {
            let got = render(text);
            assert!(got.starts_with("chat_template.jinja: chat template: "), "{text}: {got}");
            assert!(got.contains(want), "{text}: {got}");
        }
    }

    #[test]
    fn the_date_is_todays() {
        let year: u32 = render("{{ strftime_now('%Y') }}").parse().unwrap();
        assert!((2024..2200).contains(&year), "{year}");
        assert_eq!(render("{{ strftime_now('%% %Y')[:2] }}{{ strftime_now('') }}"), "% ");
    }
}
