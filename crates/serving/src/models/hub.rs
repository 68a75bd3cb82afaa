//! Models of a Hugging Face hub: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_CACHE` mean what they mean to its own
//! tools. Nothing is used whose plain hash is not what the hub says of it.

use super::{Arriving, Doing, Progress, Told, valid_name};
use anyhow::{Context, Result, bail, ensure};
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, RANGE};
use reqwest::{Client, StatusCode};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// What somebody calls a model of a hub: `OWNER/REPO`, with `:QUANTISATION` or `/FILE.gguf`, with `@REVISION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    repo: String,
    revision: String,
    pick: Pick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pick {
    /// The usual one.
    Usual,
    /// One whose name says so.
    Quantisation(String),
    /// This one.
    File(String),
}

/// One file of a hub, at one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubFile {
    /// `OWNER/REPO`.
    pub repo: String,
    /// The commit.
    pub revision: String,
    /// Its path there.
    pub file: String,
}

/// A file, and what the hub says of its content.
pub(crate) struct Promised {
    pub(crate) file: HubFile,
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
}

/// A hub.
pub(crate) struct Hub {
    client: Client,
    endpoint: String,
    token: Option<String>,
    cache: PathBuf,
}

const ENDPOINT: &str = "https://huggingface.co";
/// What is taken of several where nobody says which.
const USUAL: &str = "Q4_K_M";
/// A hub that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// A transfer that broke off is gone on with so many times in a row without anything new.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// A list of files is at most this long.
const LIST_MAX: usize = 16 << 20;

impl FromStr for HubName {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            format!(
                "{text:?} names no model: OWNER/REPO, OWNER/REPO:QUANTISATION or OWNER/REPO/FILE.gguf of a hub, a ticket, or a file"
            )
        };
        let (plain, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (plain, quantisation) = plain.split_once(':').map_or((plain, None), |(plain, q)| (plain, Some(q)));
        let mut parts = plain.splitn(3, '/');
        let (owner, repo, file) = (parts.next(), parts.next(), parts.next());
        let repo = format!("{}/{}", owner.with_context(wrong)?, repo.with_context(wrong)?);
        let pick = match (file, quantisation) {
            (Some(file), None) if file.ends_with(".gguf") => Pick::File(file.to_owned()),
            (None, Some(quantisation)) => Pick::Quantisation(quantisation.to_owned()),
            (None, None) => Pick::Usual,
            _ => bail!(wrong()),
        };
        let of_a_path = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-+ ".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.len() <= 200 && part.chars().all(plain)
        };
        let parts = repo.split('/').chain(file.into_iter().flat_map(|file| file.split('/'))).chain(quantisation);
        ensure!(parts.chain(revision.split('/')).all(of_a_path), wrong());
        Ok(Self { repo, revision: revision.to_owned(), pick })
    }
}

impl HubFile {
    /// What the model is called here, unless somebody says otherwise.
    pub(crate) fn name(&self) -> Result<String> {
        let stem = Path::new(&self.file).file_stem().map(|stem| stem.to_string_lossy().replace(' ', "-"));
        valid_name(&stem.unwrap_or_default())
    }
}

impl fmt::Display for HubFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.repo, self.file, self.revision)
    }
}

/// What a hub answers of a repository, as far as it matters here.
#[derive(Deserialize)]
struct Repository {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    #[serde(rename = "rfilename")]
    file: String,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    sha256: String,
    size: u64,
}

impl Hub {
    /// As the environment says.
    pub(crate) fn from_env() -> Result<Self> {
        let set = |name: &str| std::env::var(name).ok().map(|text| text.trim().to_owned()).filter(|t| !t.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let home = set("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = set("XDG_CACHE_HOME").map(PathBuf::from);
            cache
                .unwrap_or_else(|| set("HOME").map_or_else(PathBuf::new, PathBuf::from).join(".cache"))
                .join("huggingface")
        });
        let written = || std::fs::read_to_string(home.join("token")).ok().map(|text| text.trim().to_owned());
        let token = set("HF_TOKEN").or_else(written).filter(|token| !token.is_empty());
        let cache = set("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        let tls = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()?;
        let tls = rustls_platform_verifier::BuilderVerifierExt::with_platform_verifier(tls)?.with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("talkoo/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(SILENCE)
            .read_timeout(SILENCE)
            .build()?;
        Ok(Self { client, endpoint: endpoint.trim_end_matches('/').to_owned(), token, cache })
    }

    /// The file of a name, as the hub has it now.
    pub(crate) async fn find(&self, name: &HubName) -> Result<Promised> {
        let HubName { repo, revision, pick } = name;
        let repository = self.repository(repo, revision).await?;
        let shown = |siblings: &[&Sibling]| siblings.iter().map(|s| s.file.as_str()).collect::<Vec<_>>().join("\n  ");
        let all: Vec<&Sibling> = repository.siblings.iter().filter(|sibling| sibling.file.ends_with(".gguf")).collect();
        ensure!(!all.is_empty(), "{repo} has no GGUF file; many models have one in a repository called {repo}-GGUF");
        let said = |sibling: &&&Sibling, word: &str| sibling.file.to_lowercase().contains(&word.to_lowercase());
        let found: Vec<&Sibling> = match pick {
            Pick::File(file) => all.iter().filter(|sibling| sibling.file == *file).copied().collect(),
            Pick::Quantisation(word) => all.iter().filter(|sibling| said(sibling, word)).copied().collect(),
            Pick::Usual if all.len() == 1 => all.clone(),
            Pick::Usual => all.iter().filter(|sibling| said(sibling, USUAL)).copied().collect(),
        };
        let [one] = found[..] else {
            bail!("{repo} has several models, say which as {repo}/FILE:\n  {}", shown(&all));
        };
        ensure!(!one.file.contains("-of-0"), "{} is one part of several: such models cannot be served yet", one.file);
        let large = one.lfs.as_ref();
        let large = large.with_context(|| format!("the hub gives no hash of {}: it is not fetched", one.file))?;
        // Both become parts of paths.
        let hex = |text: &str| text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        ensure!(large.sha256.len() == 64 && hex(&large.sha256) && hex(&repository.sha), "the hub's hashes are none");
        let file = HubFile { repo: repo.clone(), revision: repository.sha, file: one.file.clone() };
        Ok(Promised { file, sha256: large.sha256.to_lowercase(), bytes: large.size })
    }

    /// What the hub says of a file that was named before.
    pub(crate) async fn promised(&self, file: &HubFile) -> Result<Promised> {
        let pick = Pick::File(file.file.clone());
        self.find(&HubName { repo: file.repo.clone(), revision: file.revision.clone(), pick }).await
    }

    /// Fetches what is missing of a file; from the cache of the hub's own tools where it is there.
    pub(crate) async fn fetch(&self, promised: &Promised, into: &mut Arriving, told: Told<'_>) -> Result<()> {
        if let Some(path) = self.cached(promised) {
            let mut source = std::fs::File::open(path)?;
            into.file.set_len(0)?;
            std::io::copy(&mut source, &mut into.file)?;
            return Ok(());
        }
        let mut tries = 0;
        loop {
            let before = into.file.metadata()?.len();
            match before.cmp(&promised.bytes) {
                std::cmp::Ordering::Less => {}
                // All of it came before an interruption.
                std::cmp::Ordering::Equal => return Ok(()),
                std::cmp::Ordering::Greater => into.file.set_len(0)?,
            }
            let broke = match self.go_on(promised, before, into, told).await {
                Ok(()) if into.file.metadata()?.len() == promised.bytes => return Ok(()),
                Ok(()) => anyhow::anyhow!("it ended early"),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing(error)) => error,
            };
            let more = into.file.metadata()?.len() > before;
            tries = if more { 0 } else { tries + 1 };
            if tries == TRIES {
                return Err(broke.context("the hub does not send it; run this again, it goes on where it was"));
            }
            tokio::time::sleep(PAUSE * tries).await;
        }
    }

    fn cached(&self, promised: &Promised) -> Option<PathBuf> {
        let folder = format!("models--{}", promised.file.repo.replace('/', "--"));
        let path = self.cache.join(folder).join("blobs").join(&promised.sha256);
        std::fs::metadata(&path).is_ok_and(|file| file.len() == promised.bytes).then_some(path)
    }

    async fn repository(&self, repo: &str, revision: &str) -> Result<Repository> {
        let url = format!("{}/api/models/{repo}/revision/{}?blobs=true", self.endpoint, encoded(revision));
        let mut answer = self.get(&url).send().await.with_context(|| self.away())?;
        if !answer.status().is_success() {
            bail!(self.refusal(&answer, repo));
        }
        let mut body = Vec::new();
        while let Some(bytes) = answer.chunk().await.with_context(|| self.away())? {
            ensure!(body.len() + bytes.len() <= LIST_MAX, "the hub's list of files of {repo} is too long");
            body.extend_from_slice(&bytes);
        }
        serde_json::from_slice(&body).with_context(|| format!("{} gave no list of files of {repo}", self.endpoint))
    }

    async fn go_on(&self, promised: &Promised, from: u64, into: &mut Arriving, told: Told<'_>) -> Result<(), Trouble> {
        let HubFile { repo, revision, file } = &promised.file;
        let url = format!("{}/{repo}/resolve/{}/{}", self.endpoint, encoded(revision), encoded(file));
        let asked = self.get(&url).header(RANGE, format!("bytes={from}-"));
        let mut answer =
            asked.send().await.map_err(|error| Trouble::Passing(anyhow::Error::new(error).context(self.away())))?;
        let status = answer.status();
        let ranged = format!("bytes {from}-");
        let begins = answer.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        match status {
            StatusCode::PARTIAL_CONTENT if begins.is_some_and(|range| range.starts_with(&ranged)) => {}
            // It does not go on in the middle: from the beginning, then.
            StatusCode::OK => into.file.set_len(0)?,
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Trouble::Passing(anyhow::anyhow!("the hub answers {status}")));
            }
            _ => return Err(Trouble::Final(anyhow::anyhow!(self.refusal(&answer, repo)))),
        }
        let passing = |error| Trouble::Passing(anyhow::Error::new(error).context("the transfer broke off"));
        while let Some(bytes) = answer.chunk().await.map_err(passing)? {
            let done = into.file.metadata()?.len() + bytes.len() as u64;
            if done > promised.bytes {
                return Err(Trouble::Final(anyhow::anyhow!("the hub sends more than the file is long")));
            }
            into.append(&bytes)?;
            told(Progress { what: Doing::Hub, done, of: promised.bytes });
        }
        Ok(())
    }

    fn get(&self, url: &str) -> reqwest::RequestBuilder {
        let request = self.client.get(url);
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    fn away(&self) -> String {
        format!("{} cannot be reached; HF_ENDPOINT names another hub", self.endpoint)
    }

    fn refusal(&self, answer: &reqwest::Response, repo: &str) -> String {
        let why = answer.headers().get("x-error-message").and_then(|why| why.to_str().ok());
        let why = why.map(|why| format!(" ({})", why.chars().take(200).collect::<String>())).unwrap_or_default();
        match answer.status().as_u16() {
            404 => format!("there is no such file or revision in {repo} on {}{why}", self.endpoint),
            401 | 403 if self.token.is_none() => {
                format!("{repo} is not there, or not for everybody{why}; HF_TOKEN holds your access token")
            }
            401 | 403 => format!("your access token does not open {repo}{why}; accept its terms on the hub's page"),
            other => format!("{} answers {other} for {repo}{why}", self.endpoint),
        }
    }
}

/// Why a transfer ended.
enum Trouble {
    /// Going on may help.
    Passing(anyhow::Error),
    /// It does not.
    Final(anyhow::Error),
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Final(anyhow::Error::new(error).context("what arrives cannot be written"))
    }
}

/// What names may have that addresses may not.
fn encoded(path: &str) -> String {
    path.replace(' ', "%20").replace('+', "%2B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_or_refused() {
        let name: HubName = "org/repo:Q8_0@v1.0".parse().expect("a name");
        assert_eq!(name.pick, Pick::Quantisation("Q8_0".into()));
        assert_eq!((name.repo.as_str(), name.revision.as_str()), ("org/repo", "v1.0"));
        let name: HubName = "org/repo/sub/a file.gguf".parse().expect("a name");
        assert_eq!(name.pick, Pick::File("sub/a file.gguf".into()));
        for wrong in
            ["", "repo", "org/", "/repo", "org/repo/file.bin", "org/../x", "org/repo/../a.gguf", "o/r@", "o/r?x"]
        {
            assert!(wrong.parse::<HubName>().is_err(), "{wrong}");
        }
    }
}
