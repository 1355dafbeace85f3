// A certified OpenID provider for the trials: node oidc-provider.mjs, with PORT, RESOURCES and USER in the environment.
//
// It signs everybody in as the user that `login_hint` or USER names, and grants what is asked: the person's part is not
// what is tried here. Clients may register themselves; tokens are JWTs for the one resource that was asked for.
import { randomBytes } from "node:crypto";
import Provider, { errors } from "oidc-provider";

const port = Number(process.env.PORT);
const issuer = `http://127.0.0.1:${port}`;
const resources = (process.env.RESOURCES ?? "").split(",").filter(Boolean);
const clients = JSON.parse(process.env.CLIENTS ?? "[]");
const scopes = "mcp:tools mcp:read";

const provider = new Provider(issuer, {
  clients,
  scopes: ["openid", "offline_access", ...scopes.split(" ")],
  claims: { openid: ["sub"], groups: ["groups"] },
  cookies: { keys: [randomBytes(16).toString("hex")] },
  pkce: { required: () => true },
  ttl: { AccessToken: 300, AuthorizationCode: 60, RefreshToken: 3600, Session: 3600, Grant: 3600, Interaction: 600, IdToken: 300 },
  findAccount: (_context, subject) => ({
    accountId: subject,
    claims: () => ({ sub: subject, groups: ["people"], name: subject }),
  }),
  clientBasedCORS: () => true,
  features: {
    devInteractions: { enabled: false },
    registration: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    dPoP: { enabled: true },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      defaultResource: () => undefined,
      getResourceServerInfo: (_context, resource) => {
        if (!resources.includes(resource)) throw new errors.InvalidTarget();
        return { scope: scopes, audience: resource, accessTokenFormat: "jwt", accessTokenTTL: 300, jwt: { sign: { alg: "RS256" } } };
      },
    },
  },
  interactions: { url: (_context, interaction) => `/auto/${interaction.uid}` },
});

// MCP clients may leave the scope out; nothing at all cannot be granted.
provider.use((context, next) => {
  const { path, query } = context;
  if (path === "/auth" && query.client_id && !query.scope) context.query = { ...query, scope: "mcp:tools" };
  return next();
});

provider.use(async (context, next) => {
  if (!context.path.startsWith("/auto/")) return next();
  const { prompt, params, session, grantId } = await provider.interactionDetails(context.req, context.res);
  const finish = (result, options) => provider.interactionFinished(context.req, context.res, result, options);
  if (prompt.name === "login") {
    const accountId = params.login_hint ?? process.env.USER ?? "alice";
    return finish({ login: { accountId, amr: ["pwd", "mfa"] } });
  }
  const grant = grantId ? await provider.Grant.find(grantId) : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const { missingOIDCScope, missingOIDCClaims, missingResourceScopes } = prompt.details;
  if (missingOIDCScope) grant.addOIDCScope(missingOIDCScope.join(" "));
  if (missingOIDCClaims) grant.addOIDCClaims(missingOIDCClaims);
  for (const [resource, wanted] of Object.entries(missingResourceScopes ?? {})) grant.addResourceScope(resource, wanted.join(" "));
  return finish({ consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
});

provider.on("server_error", (_context, error) => console.error("server_error", error));
provider.listen(port, "127.0.0.1", () => console.log("ready", issuer));
