//! The hub's HTTP routes: a revision's files, a file's identity, a file's bytes with resumption.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::hub::is_commit;
use super::source::is_plain_name;
use crate::{Error, Result};

/// Why a request gave nothing.
pub(super) enum Failure {
    /// No network, or a connection that broke: trying again may help.
    Unreachable(String),
    /// The hub's answer is no.
    Final(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Unreachable(what) | Self::Final(what) => f.write_str(what),
        }
    }
}

/// A file on the hub.
pub(super) struct Remote {
    url: String,
    /// The blob's name: SHA-256 for large files, a git object id for small ones.
    pub(super) etag: String,
    size: u64,
}

/// Requests to one endpoint.
#[derive(Debug)]
pub(super) struct Http {
    agent: Agent,
    /// Without a slash at the end.
    endpoint: String,
    token: Option<String>,
}

impl Http {
    /// Redirects that a request may take.
    const REDIRECTS: usize = 5;
    /// Broken connections in a row, without a byte received, that end a download.
    const ATTEMPTS: u32 = 4;

    /// `certificates`: a PEM file of those to trust, for networks whose proxy has its own; Mozilla's otherwise.
    pub(super) fn new(endpoint: &str, token: Option<String>, certificates: Option<&Path>) -> Result<Self> {
        let endpoint = endpoint.trim_end_matches('/');
        if origin(endpoint).is_none() {
            return Err(Error::config(
                "HF_ENDPOINT",
                format!("{endpoint:?}"),
                "a URL such as https://huggingface.co",
            ));
        }
        // Redirects are followed here, not by the library, so that the token's way can be seen.
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_per_read(Some(Duration::from_secs(30)))
            .user_agent(concat!("lathe/", env!("CARGO_PKG_VERSION")));
        if ["http://127.0.0.1", "http://localhost"].iter().any(|local| endpoint.starts_with(local)) {
            config = config.proxy(None);
        }
        if let Some(path) = certificates {
            config = config.tls_config(TlsConfig::builder().root_certs(root_certificates(path)?).build());
        }
        Ok(Self { agent: config.build().new_agent(), endpoint: endpoint.to_owned(), token })
    }

    /// The commit that `revision` is at, and the names of its files.
    pub(super) fn revision(&self, repo: &str, revision: &str) -> Result<(String, Vec<String>), Failure> {
        const LIMIT: u64 = 64 << 20;
        let url = format!("{}/api/models/{repo}/revision/{}", self.endpoint, revision.replace('/', "%2F"));
        let mut response = self.get(&url, None)?;
        let body = response.body_mut().with_config().limit(LIMIT).read_to_vec();
        let body = body.map_err(|error| self.unreachable(&error))?;
        let json: serde_json::Value = serde_json::from_slice(&body)
            .map_err(|error| Failure::Final(format!("{url}: the answer is not JSON: {error}")))?;
        let commit = json["sha"].as_str().filter(|sha| is_commit(sha));
        let files = json["siblings"].as_array();
        let (Some(commit), Some(files)) = (commit, files) else {
            return Err(Failure::Final(format!(
                "{url}: the answer has no commit (`sha`) or files (`siblings`)"
            )));
        };
        let files = files.iter().filter_map(|file| Some(file["rfilename"].as_str()?.to_owned())).collect();
        Ok((commit.to_owned(), files))
    }

    /// What the hub says of the file `name` at `commit`.
    pub(super) fn describe(&self, repo: &str, commit: &str, name: &str) -> Result<Remote, Failure> {
        let first = format!("{}/{repo}/resolve/{commit}/{name}", self.endpoint);
        let mut url = first.clone();
        for _ in 0..=Self::REDIRECTS {
            let response = self.send("HEAD", &url, None)?;
            let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            // Only within the hub: a large file's answer describes it and leads elsewhere.
            if let Some(next) = redirect(&url, &response)?
                && origin(&next) == origin(&url)
                && text("x-linked-etag").is_none()
            {
                url = next;
                continue;
            }
            if !response.status().is_success() && !response.status().is_redirection() {
                return Err(self.refusal(&url, &response));
            }
            if let Some(other) = text("x-repo-commit").filter(|&other| other != commit) {
                return Err(Failure::Final(format!("{url}: the hub gave commit {other}, expected {commit}")));
            }
            let etag = text("x-linked-etag").or(text("etag")).unwrap_or("");
            let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
            // A redirect's own length is not the file's.
            let length = text("content-length").filter(|_| response.status().is_success());
            let size = text("x-linked-size").or(length).and_then(|size| size.parse().ok());
            return match size {
                Some(size) if is_plain_name(etag) => Ok(Remote { url: first, etag: etag.to_owned(), size }),
                _ => Err(Failure::Final(format!(
                    "{url}: the answer has no ETag or size: is this a Hugging Face hub?"
                ))),
            };
        }
        Err(Failure::Final(format!("{first}: more than {} redirects", Self::REDIRECTS)))
    }

    /// Appends to `file`, which may hold the beginning, what it lacks of `remote`; `name` is for the progress bar.
    ///
    /// The outer error is that of the file.
    pub(super) fn download(
        &self,
        remote: &Remote,
        file: &mut File,
        name: &str,
    ) -> io::Result<Result<(), Failure>> {
        let style = "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(style).expect("the template is well-formed");
        let bar = ProgressBar::new(remote.size)
            .with_style(style.progress_chars("=> "))
            .with_message(name.to_owned());
        let mut hash = Sha256::new();
        let mut have = resume(file, &mut hash)?;
        if have > remote.size {
            (have, hash) = (0, Sha256::new());
            file.set_len(0)?;
        }
        let mut failures = 0;
        while have < remote.size {
            bar.set_position(have);
            let before = have;
            let failure = match self.get(&remote.url, Some(have)) {
                Err(failure) => failure,
                Ok(response) => {
                    if response.status() != StatusCode::PARTIAL_CONTENT && have > 0 {
                        // The server does not resume: from the start.
                        (have, hash) = (0, Sha256::new());
                        file.set_len(0)?;
                    }
                    let expected = format!("bytes {have}-");
                    let range =
                        response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
                    if range.is_some_and(|range| !range.starts_with(&expected)) {
                        let range = range.unwrap_or_default();
                        return Ok(Err(Failure::Final(format!(
                            "{}: gave {range}, expected {expected}",
                            remote.url
                        ))));
                    }
                    match copy(response, file, &mut hash, &mut have, remote.size, &bar)? {
                        None => Failure::Unreachable(format!("{}: the connection ended early", remote.url)),
                        Some(error) => self.unreachable(&error),
                    }
                }
            };
            match failure {
                Failure::Final(_) => return Ok(Err(failure)),
                Failure::Unreachable(_) if have == remote.size => {}
                Failure::Unreachable(_) => {
                    failures = if have > before { 1 } else { failures + 1 };
                    if failures == Self::ATTEMPTS {
                        return Ok(Err(failure));
                    }
                    std::thread::sleep(Duration::from_millis(50 << failures));
                }
            }
        }
        bar.finish_and_clear();
        if have > remote.size {
            let what = format!("{}: is longer than the {} bytes that the hub said", remote.url, remote.size);
            return Ok(Err(Failure::Final(what)));
        }
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if remote.etag.len() == digest.len() && remote.etag != digest {
            let what = format!("{}: has SHA-256 {digest}, expected {}", remote.url, remote.etag);
            return Ok(Err(Failure::Final(what)));
        }
        file.sync_all()?;
        Ok(Ok(()))
    }

    /// A GET that follows redirects; `from`: the first byte that is wanted.
    fn get(&self, url: &str, from: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut at = url.to_owned();
        for _ in 0..=Self::REDIRECTS {
            let response = self.send("GET", &at, from)?;
            match redirect(&at, &response)? {
                Some(next) => at = next,
                None if response.status().is_success() => return Ok(response),
                None => return Err(self.refusal(&at, &response)),
            }
        }
        Err(Failure::Final(format!("{url}: more than {} redirects", Self::REDIRECTS)))
    }

    fn send(&self, method: &str, url: &str, from: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        // Compressed, lengths and offsets would be of something else.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        // The token is for the hub alone, not for where it redirects to.
        if let Some(token) = self.token.as_ref().filter(|_| origin(url) == origin(&self.endpoint)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(from) = from.filter(|&from| from > 0) {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let request = request.body(()).map_err(|error| Failure::Final(format!("{url}: {error}")))?;
        self.agent.run(request).map_err(|error| self.unreachable(&error))
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> Failure {
        let error = error.to_string();
        let advice = match error.contains("certificate") {
            true => " (set SSL_CERT_FILE if your network has certificates of its own)",
            false => "",
        };
        Failure::Unreachable(format!("cannot be fetched from {}: {error}{advice}", self.endpoint))
    }

    fn refusal(&self, url: &str, response: &Response<Body>) -> Failure {
        let status = response.status();
        let advice = match (status.as_u16(), &self.token) {
            (401, None) => {
                "no such repository, or a private or gated one: set HF_TOKEN to a token that has access"
            }
            (401, Some(_)) => "no such repository, or the token has no access: check HF_TOKEN",
            (403, _) => "access is restricted: accept the model's terms on its page, and check HF_TOKEN",
            (404, _) => "no such repository, revision or file",
            (429, _) => "too many requests: wait, or set HF_TOKEN for a higher limit",
            (500.., _) => "the hub has a problem: try later",
            _ => "not an answer that is expected",
        };
        let wait = response.headers().get(header::RETRY_AFTER).and_then(|seconds| seconds.to_str().ok());
        let wait = wait.map(|wait| format!(" (retry after {wait} s)")).unwrap_or_default();
        Failure::Final(format!("{url} answered {status}{wait}: {advice}"))
    }
}

/// The certificates of a PEM file.
fn root_certificates(path: &Path) -> Result<RootCerts> {
    let pem = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(Error::model(path, format!("not certificates in PEM: {error}")))),
    };
    let certificates = parse_pem(&pem).filter_map(certificate).collect::<Result<Vec<_>>>()?;
    if certificates.is_empty() {
        return Err(Error::model(
            path,
            "has no certificates in PEM (from SSL_CERT_FILE or REQUESTS_CA_BUNDLE)",
        ));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// Scheme, host and port of a URL; `None` if it is not HTTP.
fn origin(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = rest.split(['/', '?', '#']).next().filter(|host| !host.is_empty())?;
    Some(&url[..url.len() - rest.len() + host.len()])
}

/// Where `response` to `url` redirects to, if it does.
fn redirect(url: &str, response: &Response<Body>) -> Result<Option<String>, Failure> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    match location {
        Some(path) if path.starts_with('/') && !path.starts_with("//") => {
            Ok(Some(format!("{}{path}", origin(url).expect("it was just asked"))))
        }
        Some(absolute) if origin(absolute).is_some() => Ok(Some(absolute.to_owned())),
        other => Err(Failure::Final(format!("{url}: redirects to {other:?}, expected a URL"))),
    }
}

/// The length of what `file` holds already, added to `hash`.
fn resume(file: &mut File, hash: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 16];
    let mut have = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(have),
            n => {
                hash.update(&buffer[..n]);
                have += n as u64;
            }
        }
    }
}

/// Appends a response's body to `file` until it ends, breaks (the error is given) or exceeds `size`.
fn copy(
    response: Response<Body>,
    file: &mut File,
    hash: &mut Sha256,
    have: &mut u64,
    size: u64,
    bar: &ProgressBar,
) -> io::Result<Option<io::Error>> {
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 16];
    while *have <= size {
        let n = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) => return Ok(Some(error)),
        };
        file.write_all(&buffer[..n])?;
        hash.update(&buffer[..n]);
        *have += n as u64;
        bar.set_position(*have);
    }
    Ok(None)
}
