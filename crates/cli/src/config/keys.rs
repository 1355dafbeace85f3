//! `[keys]` and `[vaults]`: what wraps the keys of the store, and where secrets are fetched.

use std::path::PathBuf;

use bartizan_model::SecretRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Given;

/// `[keys]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeysConfig {
    /// Who keeps the root key, which wraps all other keys.
    pub provider: Provider,
    /// The root key's name at the provider; `bartizan` by default. For `azure-key-vault`, `hashicorp-transit`, `keyring` and
    /// `pkcs11`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `provider = "azure-key-vault"`: how the key wraps. `RSA-OAEP-256` for RSA keys, `A256KW` for keys of a Managed HSM.
    pub algorithm: WrapAlgorithm,
    /// `provider = "hashicorp-transit"`: where the transit engine is mounted; `transit` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// `provider = "pkcs11"`: the module and the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pkcs11: Option<Pkcs11Config>,
    /// How often a running gate asks the provider whether the root key is still ours to use, in seconds. Refused: nothing
    /// opens until it is allowed again.
    pub recheck_s: u64,
    /// How long a running gate goes on while the provider does not answer, in seconds. Then nothing opens until it does.
    pub away_s: u64,
}

impl Default for KeysConfig {
    fn default() -> Self {
        Self {
            provider: Provider::File,
            key: None,
            algorithm: WrapAlgorithm::RsaOaep256,
            mount: None,
            pkcs11: None,
            recheck_s: 300,
            away_s: 3600,
        }
    }
}

/// `[keys] provider`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// The file `seal.key` in the state folder, mode 0600.
    #[default]
    File,
    /// The keyring of the desktop (Secret Service).
    Keyring,
    /// A token or HSM, by its PKCS#11 module.
    Pkcs11,
    /// Azure Key Vault or Managed HSM; needs `[vaults.azure]`.
    AzureKeyVault,
    /// The transit engine of HashiCorp Vault or OpenBao; needs `[vaults.hashicorp]`.
    HashicorpTransit,
}

/// `[keys] algorithm`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum WrapAlgorithm {
    /// RSA with OAEP and SHA-256.
    #[default]
    #[serde(rename = "RSA-OAEP-256")]
    RsaOaep256,
    /// AES key wrap with 256 bits (RFC 3394).
    #[serde(rename = "A256KW")]
    A256Kw,
}

/// `[keys.pkcs11]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pkcs11Config {
    /// The module: `/usr/lib/softhsm/libsofthsm2.so`.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// Where the user's PIN is kept.
    pub pin: Given,
}

/// `[vaults]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VaultsConfig {
    /// Azure Key Vault, for `{ azure_kv = "NAME" }` and `[keys] provider = "azure-key-vault"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureVault>,
    /// HashiCorp Vault or OpenBao, for `{ hashicorp = "MOUNT/PATH#FIELD" }` and `[keys] provider = "hashicorp-transit"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hashicorp: Option<HashicorpVault>,
    /// After how many seconds a secret is fetched again; a new value is used at once.
    pub ttl_s: u64,
}

impl Default for VaultsConfig {
    fn default() -> Self {
        Self { azure: None, hashicorp: None, ttl_s: 60 }
    }
}

impl VaultsConfig {
    /// Whether nothing is configured.
    pub fn is_empty(&self) -> bool {
        self.azure.is_none() && self.hashicorp.is_none() && self.ttl_s == Self::default().ttl_s
    }
}

/// `[vaults.azure]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AzureVault {
    /// The vault: `https://contoso.vault.azure.net`.
    #[schemars(with = "String")]
    pub url: Url,
    /// The directory (tenant) id; left out with `managed_identity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The application's (client) id; with `managed_identity` another name for `identity_client_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Ask as the identity that Azure manages for this machine, in the place of `tenant` and a credential.
    #[serde(default, skip_serializing_if = "is_false")]
    pub managed_identity: bool,
    /// Which identity, by its client id, for a machine that has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_client_id: Option<String>,
    /// Where its secret is kept: not in a vault itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Given>,
    /// Instead of a secret: the file with a token of workload identity federation, read anew for each use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub federated_token_file: Option<PathBuf>,
    /// Who gives tokens.
    #[schemars(with = "String")]
    #[serde(default = "public_cloud")]
    pub authority: Url,
    /// What tokens are for; `https://vault.azure.net/.default` by default, `https://managedhsm.azure.net/.default` for a
    /// Managed HSM.
    #[serde(default = "vault_scope")]
    pub scope: String,
    /// The authorities to trust instead of the system's (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

impl AzureVault {
    /// Which of the machine's identities asks.
    pub fn identity(&self) -> Option<&str> {
        self.identity_client_id.as_deref().or(self.client_id.as_deref())
    }
}

/// What is wrong with the names of the machine's identity, which `client_id` may be too: what was accepted stays so.
pub(super) fn identity_problem(
    is_managed: bool,
    identity: Option<&String>,
    client_id: Option<&String>,
) -> Option<&'static str> {
    match (is_managed, identity, client_id) {
        (false, Some(_), _) => Some("`identity_client_id` is for `managed_identity = true`"),
        (true, Some(_), Some(_)) => Some(
            "`client_id` and `identity_client_id` are one with `managed_identity`: leave `client_id` out",
        ),
        _ => None,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's own signature")]
fn is_false(value: &bool) -> bool {
    !value
}

fn public_cloud() -> Url {
    #[expect(clippy::unwrap_used, reason = "it is a URL")]
    Url::parse("https://login.microsoftonline.com").unwrap()
}

fn vault_scope() -> String {
    "https://vault.azure.net/.default".to_owned()
}

/// `[vaults.hashicorp]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashicorpVault {
    /// The server: `https://vault.example.com:8200`.
    #[schemars(with = "String")]
    pub url: Url,
    /// Where a token is kept, for example the sink file of Vault Agent; read anew for each use.
    pub token: Given,
    /// The namespace, for Vault Enterprise and HCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The authorities to trust instead of the system's (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// What is wrong with `[keys]` and `[vaults]`.
pub fn problems(keys: &KeysConfig, vaults: &VaultsConfig) -> Vec<String> {
    let mut found = Vec::new();
    let provider = keys.provider;
    if (provider == Provider::Pkcs11) != keys.pkcs11.is_some() {
        found.push("[keys] provider = \"pkcs11\" and [keys.pkcs11] (module, token, pin) go together".into());
    }
    if provider == Provider::AzureKeyVault && vaults.azure.is_none() {
        found.push(
            "[keys] provider = \"azure-key-vault\" needs [vaults.azure]: url, tenant, client_id and a credential".into(),
        );
    }
    if provider == Provider::HashicorpTransit && vaults.hashicorp.is_none() {
        found.push("[keys] provider = \"hashicorp-transit\" needs [vaults.hashicorp]: url and token".into());
    }
    let is_part = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    if keys.key.as_deref().is_some_and(|key| !is_part(key) || provider == Provider::File) {
        found.push(
            "[keys] key is a name of A-Z, a-z, 0-9, `-`, `_` and `.`, for a provider that is not `file`"
                .into(),
        );
    }
    let is_mount = |mount: &str| mount.split('/').all(is_part);
    if keys.mount.as_deref().is_some_and(|m| !is_mount(m) || provider != Provider::HashicorpTransit) {
        found.push(
            "[keys] mount is a path without slashes at its ends, for provider = \"hashicorp-transit\"".into(),
        );
    }
    if keys.recheck_s == 0 || vaults.ttl_s == 0 {
        found.push("[keys] recheck_s and [vaults] ttl_s are at least 1".into());
    }
    let is_near = |url: &Url| match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(_)) | None => false,
    };
    let mut bootstrap = Vec::new();
    if let Some(azure) = &vaults.azure {
        for (name, url) in [("url", &azure.url), ("authority", &azure.authority)] {
            if url.scheme() != "https" && !is_near(url) {
                found.push(format!("[vaults.azure] {name} must be an https URL"));
            }
        }
        let (identity, client_id) = (azure.identity_client_id.as_ref(), azure.client_id.as_ref());
        let problem = identity_problem(azure.managed_identity, identity, client_id);
        found.extend(problem.map(|problem| format!("[vaults.azure] {problem}")));
        let has_proof = azure.client_secret.is_some() || azure.federated_token_file.is_some();
        if azure.managed_identity {
            if has_proof || azure.tenant.is_some() {
                found.push(
                    "[vaults.azure] managed_identity stands in the place of `tenant`, `client_secret` and `federated_token_file`: \
                     leave them out"
                        .into(),
                );
            }
        } else {
            if azure.client_secret.is_some() == azure.federated_token_file.is_some() {
                found.push(
                    "[vaults.azure] needs `client_secret`, `federated_token_file` or `managed_identity = true`, one of them"
                        .into(),
                );
            }
            if azure.tenant.is_none() || azure.client_id.is_none() {
                found.push(
                    "[vaults.azure] needs `tenant` and `client_id`, or `managed_identity = true`".into(),
                );
            }
        }
        bootstrap.extend(azure.client_secret.as_ref().map(|secret| ("[vaults.azure] client_secret", secret)));
    }
    if let Some(hashicorp) = &vaults.hashicorp {
        if hashicorp.url.scheme() != "https" && !is_near(&hashicorp.url) {
            found.push("[vaults.hashicorp] url must be an https URL".into());
        }
        bootstrap.push(("[vaults.hashicorp] token", &hashicorp.token));
    }
    if let Some(pkcs11) = &keys.pkcs11 {
        bootstrap.push(("[keys.pkcs11] pin", &pkcs11.pin));
    }
    for (field, secret) in bootstrap {
        if !matches!(secret.kept(), Some(SecretRef::Env { .. } | SecretRef::File { .. })) {
            found.push(format!("{field} must be {{ env = … }} or {{ file = … }}: it opens the vaults"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn found(text: &str) -> Vec<String> {
        let config: Config = toml::from_str(text).unwrap();
        problems(&config.keys, &config.vaults)
    }

    const AZURE: &str =
        "[vaults.azure]\nurl = \"https://contoso.vault.azure.net\"\ntenant = \"t\"\nclient_id = \"c\"\n";

    #[test]
    fn a_provider_has_what_it_needs() {
        assert_eq!(found(""), Vec::<String>::new());
        assert_eq!(found("[keys]\nprovider = \"keyring\"\n"), Vec::<String>::new());
        assert!(found("[keys]\nprovider = \"pkcs11\"\n")[0].contains("[keys.pkcs11]"));
        assert!(found("[keys]\nprovider = \"azure-key-vault\"\n")[0].contains("[vaults.azure]"));
        assert!(found("[keys]\nprovider = \"hashicorp-transit\"\n")[0].contains("[vaults.hashicorp]"));
        let azure = format!("[keys]\nprovider = \"azure-key-vault\"\nkey = \"root\"\n{AZURE}");
        assert!(found(&azure)[0].contains("one of them"));
        let managed = "[vaults.azure]\nurl = \"https://contoso.vault.azure.net\"\nmanaged_identity = true\n";
        assert_eq!(found(managed), Vec::<String>::new());
        assert!(found(&format!("{AZURE}managed_identity = true\n"))[0].contains("leave them out"));
        assert!(found(&format!("{managed}identity_client_id = \"ours\"\n")).is_empty());
        assert!(found(&format!("{managed}client_id = \"ours\"\n")).is_empty(), "as it was written before");
        let both = format!("{managed}client_id = \"a\"\nidentity_client_id = \"b\"\n");
        assert!(found(&both)[0].contains("leave `client_id` out"));
        assert!(
            found(&format!("{AZURE}identity_client_id = \"b\"\n"))[0].contains("`managed_identity = true`")
        );
        let nobody = managed.replace("managed_identity = true", "client_secret = { env = \"S\" }");
        assert!(found(&nobody)[0].contains("`tenant` and `client_id`"));
        let secret = format!("{azure}client_secret = {{ env = \"S\" }}\n");
        assert_eq!(found(&secret), Vec::<String>::new());
        assert!(
            found(&format!("{azure}client_secret = {{ vault = \"S\" }}\n"))[0].contains("opens the vaults")
        );
        assert!(found(&secret.replace("https://contoso", "http://contoso"))[0].contains("https"));
        assert!(found("[keys]\nkey = \"../x\"\nprovider = \"keyring\"\n")[0].contains("a name of"));
        let transit = "[keys]\nprovider = \"hashicorp-transit\"\nmount = \"transit/\"\n[vaults.hashicorp]\n\
                       url = \"https://v:8200\"\ntoken = { file = \"t\" }\n";
        assert!(found(transit)[0].contains("mount"));
    }
}
