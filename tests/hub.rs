//! The hub's client against a small local server that speaks the hub's routes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lathe::model::hub::{Hub, Repo};
use lathe::model::{ModelFiles, Source};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const REPO: &str = "some-org/tiny.model";

struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The connection closes after this many bytes of the body.
    cut: Option<usize>,
}

impl Reply {
    fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), cut: None }
    }

    fn body(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::status(200) }
    }

    fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

/// Answers every request by `answer` and keeps a log of them, until the test ends.
struct Server {
    address: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(answer: impl Fn(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let server = Self { address, log: log.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let Some(request) = read_request(&stream) else { continue };
                let reply = answer(&request);
                let head_only = request.method == "HEAD";
                log.lock().unwrap().push(request);
                send(stream, &reply, head_only);
            }
        });
        server
    }

    /// `METHOD PATH` of each request since the last call.
    fn requests(&self) -> Vec<String> {
        let log = std::mem::take(&mut *self.log.lock().unwrap());
        log.iter().map(|request| format!("{} {}", request.method, request.path)).collect()
    }

    /// A header of each request since the last call; empty where it is absent.
    fn header(&self, name: &str) -> Vec<String> {
        let log = std::mem::take(&mut *self.log.lock().unwrap());
        log.iter().map(|request| request.headers.get(name).cloned().unwrap_or_default()).collect()
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let first = lines.next()?;
    let (method, rest) = first.split_once(' ')?;
    let path = rest.split(' ').next()?.to_owned();
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_owned()))
    });
    Some(Request { method: method.to_owned(), path, headers: headers.collect() })
}

fn send(mut stream: TcpStream, reply: &Reply, head_only: bool) {
    let mut head = format!("HTTP/1.1 {} Test\r\nConnection: close\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| *name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    // The client may have hung up, which is its right.
    let _ = stream.write_all((head + "\r\n").as_bytes());
    if !head_only {
        let _ = stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())]);
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read(&mut [0]);
}

type Files = HashMap<String, Vec<u8>>;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A small file's ETag; any 40 digits will do.
fn git_id(bytes: &[u8]) -> String {
    sha256(bytes)[..40].to_owned()
}

/// What a store of large files does: whole files, or the rest from `Range`.
fn store(files: Files) -> impl Fn(&Request) -> Reply + Send {
    move |request| {
        let Some(body) = files.get(request.path.trim_start_matches("/store/")) else {
            return Reply::status(404);
        };
        match request.headers.get("range").map(|range| range["bytes=".len()..].trim_end_matches('-')) {
            None => Reply::body(body.clone()),
            Some(from) => {
                let from: usize = from.parse().unwrap();
                let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
                Reply { status: 206, ..Reply::body(&body[from..]) }.header("Content-Range", range)
            }
        }
    }
}

/// What the hub does: files named `*.safetensors` are in `store`, others it has itself.
fn hub(files: Files, store: String) -> impl Fn(&Request) -> Reply + Send {
    move |request| {
        if let Some(revision) = request.path.strip_prefix(&format!("/api/models/{REPO}/revision/")) {
            let commit =
                if ["main", "v1", COMMIT].contains(&revision) { COMMIT } else { return Reply::status(404) };
            let mut names: Vec<_> = files.keys().collect();
            names.sort();
            let siblings: Vec<_> =
                names.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
            let answer = serde_json::json!({ "sha": commit, "siblings": siblings });
            return Reply::body(answer.to_string());
        }
        let moved = format!("/api/resolve-cache/{COMMIT}/");
        let resolve = format!("/{REPO}/resolve/{COMMIT}/");
        let (name, direct) = match (request.path.strip_prefix(&resolve), request.path.strip_prefix(&moved)) {
            (Some(name), _) => (name, false),
            (_, Some(name)) => (name, true),
            _ => return Reply::status(404),
        };
        let Some(body) = files.get(name) else { return Reply::status(404) };
        if name.ends_with(".safetensors") {
            Reply::status(302)
                .header("Location", format!("{store}/store/{name}"))
                .header("X-Linked-ETag", format!("\"{}\"", sha256(body)))
                .header("X-Linked-Size", body.len())
                .header("X-Repo-Commit", COMMIT)
        } else if direct {
            let reply = Reply::body(body.clone()).header("ETag", format!("W/\"{}\"", git_id(body)));
            reply.header("X-Repo-Commit", COMMIT)
        } else {
            Reply::status(307).header("Location", format!("{moved}{name}"))
        }
    }
}

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/golden/models/qwen3").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A repository with the golden Qwen3 model, and files that are of no use.
fn repository() -> Files {
    let mut files: Files = ["config.json", "generation_config.json", "model.safetensors"]
        .map(|name| (name.to_owned(), golden(name)))
        .into();
    files.insert("README.md".to_owned(), b"# A card".to_vec());
    files.insert("pytorch_model.bin".to_owned(), vec![0; 100]);
    files
}

/// A hub, its store of large files, and an empty cache.
struct World {
    hub: Server,
    store: Server,
    cache: tempfile::TempDir,
}

impl World {
    fn new(files: Files) -> Self {
        let (for_hub, for_store) = (files.clone(), store(files));
        Self::with(for_hub, for_store)
    }

    fn with(files: Files, answer: impl Fn(&Request) -> Reply + Send + 'static) -> Self {
        let store = Server::start(answer);
        let hub = Server::start(hub(files, store.address.clone()));
        Self { hub, store, cache: tempfile::tempdir().unwrap() }
    }

    fn client(&self, vars: &[(&str, &str)]) -> Hub {
        client(&self.hub.address, self.cache.path(), vars)
    }

    fn fetch(&self) -> Result<PathBuf, String> {
        fetch(&self.client(&[]), REPO)
    }

    fn model(&self) -> PathBuf {
        self.cache.path().join("hub/models--some-org--tiny.model")
    }

    fn blob(&self, bytes: &[u8]) -> PathBuf {
        self.model().join("blobs").join(sha256(bytes))
    }
}

fn client(endpoint: &str, home: &Path, vars: &[(&str, &str)]) -> Hub {
    let home = home.to_str().unwrap();
    let all = [&[("HF_ENDPOINT", endpoint), ("HF_HOME", home)], vars].concat();
    let var = |name: &str| all.iter().rev().find(|var| var.0 == name).map(|var| var.1.to_owned());
    Hub::from_vars(var).unwrap()
}

fn fetch(hub: &Hub, repo: &str) -> Result<PathBuf, String> {
    hub.fetch(&repo.parse().unwrap()).map_err(|error| error.to_string())
}

#[test]
fn a_first_fetch_downloads_what_a_model_needs_and_nothing_else() {
    let world = World::new(repository());
    let snapshot = world.fetch().unwrap();
    assert_eq!(snapshot, world.model().join("snapshots").join(COMMIT));
    let mut names: Vec<_> = std::fs::read_dir(&snapshot).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "generation_config.json", "model.safetensors"]);
    let link = std::fs::read_link(snapshot.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(&golden("model.safetensors"))));
    assert_eq!(std::fs::read_to_string(world.model().join("refs/main")).unwrap(), COMMIT);
    assert_eq!(std::fs::read_dir(world.model().join("blobs")).unwrap().count(), 3);

    let model = ModelFiles::open(Source::Folder(snapshot)).unwrap();
    assert_eq!(model.config.vocab_size, 320);
    let resolve = |name: &str| format!("/{REPO}/resolve/{COMMIT}/{name}");
    let moved = |name: &str| format!("/api/resolve-cache/{COMMIT}/{name}");
    let mut expected = vec![format!("GET /api/models/{REPO}/revision/main")];
    for name in ["config.json", "generation_config.json"] {
        for method in ["HEAD", "GET"] {
            expected.push(format!("{method} {}", resolve(name)));
            expected.push(format!("{method} {}", moved(name)));
        }
    }
    expected.push(format!("HEAD {}", resolve("model.safetensors")));
    expected.push(format!("GET {}", resolve("model.safetensors")));
    assert_eq!(world.hub.requests(), expected);
    assert_eq!(world.store.requests(), ["GET /store/model.safetensors"]);
}

#[test]
fn a_second_fetch_asks_for_the_commit_alone_and_of_a_commit_for_nothing() {
    let world = World::new(repository());
    let snapshot = world.fetch().unwrap();
    world.hub.requests();
    world.store.requests();
    assert_eq!(world.fetch().unwrap(), snapshot);
    assert_eq!(world.hub.requests(), [format!("GET /api/models/{REPO}/revision/main")]);
    assert_eq!(fetch(&world.client(&[]), &format!("{REPO}@{COMMIT}")).unwrap(), snapshot);
    assert_eq!(world.hub.requests(), [""; 0]);
    assert_eq!(fetch(&world.client(&[]), &format!("{REPO}@v1")).unwrap(), snapshot);
    assert_eq!(world.hub.requests(), [format!("GET /api/models/{REPO}/revision/v1")]);
    assert_eq!(std::fs::read_to_string(world.model().join("refs/v1")).unwrap(), COMMIT);
    assert_eq!(world.store.requests(), [""; 0]);
}

#[test]
fn offline_serves_the_cache_and_says_what_it_lacks() {
    let world = World::new(repository());
    let offline = world.client(&[("HF_HUB_OFFLINE", "1")]);
    let at = world.model().display().to_string();
    let missing = format!("{REPO}: is not in the cache at {at}, and HF_HUB_OFFLINE is set");
    assert_eq!(fetch(&offline, REPO).unwrap_err(), missing);

    let snapshot = world.fetch().unwrap();
    world.hub.requests();
    assert_eq!(fetch(&offline, REPO).unwrap(), snapshot);
    std::fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    let missing = format!("{REPO}: model.safetensors is not in the cache, and HF_HUB_OFFLINE is set");
    assert_eq!(fetch(&offline, REPO).unwrap_err(), missing);
    assert_eq!(world.hub.requests(), [""; 0]);
}

#[test]
fn a_hub_that_cannot_be_reached_leaves_the_cache() {
    // A port that was free a moment ago, so that nobody listens.
    let nobody = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let world = World::new(repository());
    let unreachable = client(&nobody, world.cache.path(), &[]);
    let error = fetch(&unreachable, REPO).unwrap_err();
    assert!(error.starts_with(&format!("{REPO}: cannot be fetched from {nobody}: ")), "{error}");
    assert!(error.ends_with(", and it is not in the cache"), "{error}");
    let snapshot = world.fetch().unwrap();
    assert_eq!(fetch(&unreachable, REPO).unwrap(), snapshot);
}

#[test]
fn a_connection_that_breaks_is_resumed_where_it_broke() {
    let files = repository();
    let answer = store(files.clone());
    let broken = Mutex::new(0);
    let world = World::with(files, move |request| {
        let mut broken = broken.lock().unwrap();
        *broken += 1;
        Reply { cut: (*broken <= 2).then_some(1000), ..answer(request) }
    });
    let snapshot = world.fetch().unwrap();
    assert_eq!(std::fs::read(snapshot.join("model.safetensors")).unwrap(), golden("model.safetensors"));
    assert_eq!(world.store.header("range"), ["", "bytes=1000-", "bytes=2000-"]);
}

#[test]
fn a_download_is_resumed_by_the_next_process() {
    let world = World::new(repository());
    let bytes = golden("model.safetensors");
    let incomplete = world.blob(&bytes).with_extension("incomplete");
    std::fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    std::fs::write(&incomplete, &bytes[..5000]).unwrap();
    let snapshot = world.fetch().unwrap();
    assert_eq!(std::fs::read(snapshot.join("model.safetensors")).unwrap(), bytes);
    assert_eq!(world.store.header("range"), ["bytes=5000-"]);
    assert!(!incomplete.exists());
}

#[test]
fn a_store_that_does_not_resume_is_read_from_the_start() {
    let files = repository();
    let body = files["model.safetensors"].clone();
    let world = World::with(files, move |_| Reply::body(body.clone()));
    let bytes = golden("model.safetensors");
    let incomplete = world.blob(&bytes).with_extension("incomplete");
    std::fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    std::fs::write(&incomplete, b"something else").unwrap();
    let snapshot = world.fetch().unwrap();
    assert_eq!(std::fs::read(snapshot.join("model.safetensors")).unwrap(), bytes);
}

#[test]
fn damaged_downloads_are_refused_and_not_kept() {
    let good = golden("model.safetensors");
    let digest = sha256(&good);
    let mut flipped = good.clone();
    flipped[4321] ^= 1;
    let longer = [&good[..], b"!"].concat();
    for (bytes, want) in [
        (flipped.clone(), format!("has SHA-256 {}, expected {digest}", sha256(&flipped))),
        (longer, format!("is longer than the {} bytes that the hub said", good.len())),
    ] {
        let world = World::with(repository(), move |_| Reply::body(bytes.clone()));
        let error = world.fetch().unwrap_err();
        assert!(error.starts_with(&format!("{REPO}/model.safetensors: http")), "{error}");
        assert!(error.ends_with(&want), "{error}, expected {want}");
        assert!(!world.blob(&good).exists());
        assert!(!world.blob(&good).with_extension("incomplete").exists());
        assert!(!world.model().join("refs/main").exists(), "an incomplete snapshot has no reference");
    }
}

#[test]
fn a_download_that_never_ends_is_given_up_and_kept_for_later() {
    let good = golden("model.safetensors");
    let short = good[..3000].to_vec();
    let world = World::with(repository(), move |request| match request.headers.get("range") {
        None => Reply::body(short.clone()),
        Some(_) => Reply { status: 206, ..Reply::body([]) },
    });
    let error = world.fetch().unwrap_err();
    assert!(error.starts_with(&format!("{REPO}/model.safetensors: http")), "{error}");
    assert!(error.ends_with("the connection ended early"), "{error}");
    let incomplete = world.blob(&good).with_extension("incomplete");
    assert_eq!(std::fs::read(incomplete).unwrap(), good[..3000]);
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let world = World::new(repository());
    fetch(&world.client(&[("HF_TOKEN", " hf_secret\n")]), REPO).unwrap();
    let sent = world.hub.header("authorization");
    assert!(!sent.is_empty() && sent.iter().all(|header| header == "Bearer hf_secret"), "{sent:?}");
    assert_eq!(world.store.header("authorization"), [""]);

    let world = World::new(repository());
    world.fetch().unwrap();
    assert!(world.hub.header("authorization").iter().all(String::is_empty));

    let world = World::new(repository());
    std::fs::write(world.cache.path().join("token"), "hf_of_file\n").unwrap();
    world.fetch().unwrap();
    assert!(world.hub.header("authorization").iter().all(|header| header == "Bearer hf_of_file"));
}

#[test]
fn a_refusal_says_what_to_do() {
    for (status, token, want) in [
        (401, None, "set HF_TOKEN to a token that has access"),
        (401, Some("hf_x"), "the token has no access: check HF_TOKEN"),
        (403, Some("hf_x"), "accept the model's terms"),
        (404, None, "no such repository, revision or file"),
        (429, None, "(retry after 7 s): too many requests"),
        (503, None, "the hub has a problem: try later"),
    ] {
        let server = Server::start(move |_| Reply::status(status).header("Retry-After", 7));
        let cache = tempfile::tempdir().unwrap();
        let vars: Vec<_> = token.map(|token| ("HF_TOKEN", token)).into_iter().collect();
        let error = fetch(&client(&server.address, cache.path(), &vars), REPO).unwrap_err();
        let url = format!("{}/api/models/{REPO}/revision/main", server.address);
        assert!(error.starts_with(&format!("{REPO}: {url} answered {status} ")), "{error}");
        assert!(error.contains(want), "{error}, expected {want}");
    }
}

#[test]
fn answers_that_make_no_sense_are_refused() {
    let json = |text: &'static str| move |_: &Request| Reply::body(text);
    type Answer = Box<dyn Fn(&Request) -> Reply + Send>;
    let cases: [(Answer, &str); 6] = [
        (Box::new(json("<html>")), "the answer is not JSON"),
        (Box::new(json("{}")), "no commit (`sha`)"),
        (Box::new(json(r#"{"sha": "../../x", "siblings": []}"#)), "no commit (`sha`)"),
        (
            Box::new(json(
                r#"{"sha": "0123456789abcdef0123456789abcdef01234567", "siblings": [{"rfilename": "a.bin"}]}"#,
            )),
            "has no weights in safetensors: its files are a.bin",
        ),
        (Box::new(|_| Reply::status(302).header("Location", "/again")), "more than 5 redirects"),
        (Box::new(|_| Reply::status(302).header("Location", "file:///etc/passwd")), "expected a URL"),
    ];
    for (answer, want) in cases {
        let server = Server::start(answer);
        let cache = tempfile::tempdir().unwrap();
        let error = fetch(&client(&server.address, cache.path(), &[]), REPO).unwrap_err();
        assert!(error.starts_with(&format!("{REPO}: ")) && error.contains(want), "{error}, expected {want}");
    }
}

#[test]
fn an_etag_cannot_leave_the_cache() {
    for etag in ["../../../evil", "", "/evil", ".."] {
        let server = Server::start(move |request| match request.method.as_str() {
            "GET" => {
                Reply::body(format!(r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "config.json"}}]}}"#))
            }
            _ => Reply::status(200).header("ETag", format!("\"{etag}\"")).header("Content-Length", 2),
        });
        let cache = tempfile::tempdir().unwrap();
        let error = fetch(&client(&server.address, cache.path(), &[]), REPO).unwrap_err();
        assert!(error.contains("the answer has no ETag or size"), "{etag}: {error}");
    }
}

#[test]
fn shards_come_from_the_index_and_stay_in_the_folder() {
    let mut files = repository();
    files.remove("model.safetensors");
    let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}"#;
    files.insert("model.safetensors.index.json".to_owned(), index.into());
    for name in ["model-1.safetensors", "model-2.safetensors", "unused.safetensors"] {
        files.insert(name.to_owned(), name.into());
    }
    let world = World::new(files.clone());
    let snapshot = world.fetch().unwrap();
    assert_eq!(std::fs::read(snapshot.join("model-2.safetensors")).unwrap(), b"model-2.safetensors");
    assert!(!snapshot.join("unused.safetensors").exists());
    let offline = world.client(&[("HF_HUB_OFFLINE", "true")]);
    assert_eq!(fetch(&offline, REPO).unwrap(), snapshot);
    std::fs::remove_file(snapshot.join("model-2.safetensors")).unwrap();
    let missing = format!("{REPO}: model-2.safetensors is not in the cache, and HF_HUB_OFFLINE is set");
    assert_eq!(fetch(&offline, REPO).unwrap_err(), missing);

    let index = r#"{"weight_map": {"a": "../../../../evil.safetensors"}}"#;
    files.insert("model.safetensors.index.json".to_owned(), index.into());
    let error = World::new(files).fetch().unwrap_err();
    assert!(
        error.contains(r#"weight_map.a is "../../../../evil.safetensors", expected a file name"#),
        "{error}"
    );
}

#[test]
fn the_cache_is_where_the_environment_says() {
    for (vars, want) in [
        (&[("HF_HUB_CACHE", "/a"), ("HF_HOME", "/b"), ("HOME", "/c")][..], "/a"),
        (&[("HF_HOME", "/b"), ("XDG_CACHE_HOME", "/d"), ("HOME", "/c")], "/b/hub"),
        (&[("XDG_CACHE_HOME", "/d"), ("HOME", "/c")], "/d/huggingface/hub"),
        (&[("HF_HOME", " "), ("HOME", "/c")], "/c/.cache/huggingface/hub"),
    ] {
        let all = [vars, &[("HF_HUB_OFFLINE", "yes")]].concat();
        let var = |name: &str| all.iter().find(|var| var.0 == name).map(|var| var.1.to_owned());
        let error = fetch(&Hub::from_vars(var).unwrap(), "a/b").unwrap_err();
        let want = format!("a/b: is not in the cache at {want}/models--a--b, and HF_HUB_OFFLINE is set");
        assert_eq!(error, want);
    }
    let certificates = tempfile::NamedTempFile::new().unwrap();
    let path = certificates.path().to_str().unwrap();
    let vars = |name: &str| ["HOME", "SSL_CERT_FILE"].contains(&name).then(|| path.to_owned());
    let error = Hub::from_vars(vars).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("{path}: has no certificates in PEM (from SSL_CERT_FILE or REQUESTS_CA_BUNDLE)")
    );
    let error = Hub::from_vars(|_| None).unwrap_err().to_string();
    assert_eq!(error, "HF_HOME is not set, and neither is HOME, expected a folder for the cache of models");
    let vars = |name: &str| ["HF_ENDPOINT", "HF_HOME"].contains(&name).then(|| "hub.example".to_owned());
    let error = Hub::from_vars(vars).unwrap_err().to_string();
    assert_eq!(error, r#"HF_ENDPOINT is "hub.example", expected a URL such as https://huggingface.co"#);
}

#[test]
fn a_repository_is_named_by_organisation_and_name() {
    let parsed: Repo = "Qwen/Qwen3-0.6B@refs/pr/1".parse().unwrap();
    assert_eq!((parsed.name.as_str(), parsed.revision.as_str()), ("Qwen/Qwen3-0.6B", "refs/pr/1"));
    assert_eq!("a/b".parse::<Repo>().unwrap().revision, "main");
    for spec in [
        "", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a b/c", "a/b--c", ".a/b",
        "a/b@x//y",
    ] {
        let error = spec.parse::<Repo>().unwrap_err().to_string();
        assert_eq!(error, format!("model is {spec:?}, expected ORG/NAME or ORG/NAME@REVISION"));
    }
}
