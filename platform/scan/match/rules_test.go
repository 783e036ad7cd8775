package match

import (
	"fmt"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/sensitive"
)

// assigned is how public lists of rules look for a secret that is only known by the name of what it is assigned to.
func assigned(names, secret string) string {
	return `(?i)[\w.-]{0,50}?(?:` + names + `)(?:[ \t\w.-]{0,20})[\s'"]{0,3}(?:=|>|:{1,3}=|\|\||:|=>|\?=|,)[\x60'"\s=]{0,5}(` + secret + `)(?:[\x60'"\s;]|\\[nr]|$)`
}

// rules are in the shape of public lists for secrets in sources, such as those of gitleaks. The formats are those that the services
// document.
var rules = []struct{ name, regex, sample string }{
	{"aws", `\b((?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16})\b`, "key=AKIAIOSFODNN7EXAMPLE;"},
	{"github-pat", `ghp_[0-9a-zA-Z]{36}`, "ghp_" + strings.Repeat("aB3", 12)},
	{"github-fine-grained", `github_pat_\w{82}`, "github_pat_" + strings.Repeat("a_", 41)},
	{"gitlab", `glpat-[\w-]{20}`, "glpat-" + strings.Repeat("x-", 10)},
	{"slack-bot", `xoxb-[0-9]{10,13}-[0-9]{10,13}[a-zA-Z0-9-]*`, "xoxb-1234567890-1234567890-abc"},
	{"slack-webhook", `(?:https?://)?hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{43,56}`, "https://hooks.slack.com/services/" + strings.Repeat("T0", 22)},
	{"stripe", `\b((?:sk|rk)_(?:test|live|prod)_[a-zA-Z0-9]{10,99})(?:[\x60'"\s;]|\\[nr]|$)`, "sk_live_" + strings.Repeat("4e", 12) + "\n"},
	{"google-api", `\b(AIza[\w-]{35})(?:[\x60'"\s;]|\\[nr]|$)`, "AIza" + strings.Repeat("Sy-_5", 7)},
	{"private-key", `(?i)-----BEGIN[ A-Z0-9_-]{0,100}PRIVATE KEY(?: BLOCK)?-----[\s\S-]{64,}?KEY(?: BLOCK)?-----`, "-----BEGIN RSA PRIVATE KEY-----\n" + strings.Repeat("MIIE", 40) + "\n-----END RSA PRIVATE KEY-----"},
	{"jwt", `\b(ey[a-zA-Z0-9]{17,}\.ey[a-zA-Z0-9/\\_-]{17,}\.(?:[a-zA-Z0-9/\\_-]{10,}={0,2})?)(?:[\x60'"\s;]|\\[nr]|$)`, "eyJhbGciOiJIUzI1NiIsInR5.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N "},
	{"npm", `(?i)\b(npm_[a-z0-9]{36})(?:[\x60'"\s;]|\\[nr]|$)`, "npm_" + strings.Repeat("a1", 18)},
	{"pypi", `pypi-AgEIcHlwaS5vcmc[\w-]{50,1000}`, "pypi-AgEIcHlwaS5vcmc" + strings.Repeat("x", 60)},
	{"age", `AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}`, "AGE-SECRET-KEY-1" + strings.Repeat("QPZRY9X8", 7) + "QP"},
	{"shopify", `shpat_[a-fA-F0-9]{32}`, "shpat_" + strings.Repeat("aF", 16)},
	{"sendgrid", `(?i)\b(SG\.[a-z0-9=_\-\.]{66})(?:[\x60'"\s;]|\\[nr]|$)`, "SG." + strings.Repeat("ab.", 22)},
	{"telegram", `(?i:(?:telegr)(?:[0-9a-z\(-_\t .\\]{0,40})(?:[\s|']|[\s|"]){0,3})(?:=|\|\||:|<=|=>|:)(?:'|\"|\s|=|\x60){0,5}([0-9]{5,16}:A[a-z0-9_\-]{34})(?:['|\"|\n|\r|\s|\x60|;]|$)`, ""},
	{"url-with-password", `\b[a-z][a-z0-9+.-]{1,20}://[^\s:@/]{1,100}:[^\s:@/]{3,100}@[\w.-]+`, "postgres://app:hunter2@db.example"},
	{"hex-key", assigned("adobe|algolia|asana", "[a-f0-9]{32}"), `adobe_secret: "` + strings.Repeat("0a", 16) + `"`},
	{"uuid-key", assigned("heroku", "[0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12}"), `HEROKU_API_KEY=12345678-ABCD-ABCD-ABCD-1234567890AB` + "\n"},
	{"any-secret", assigned("access|auth|api|credential|creds|key|passwd|password|secret|token", `[\w.=-]{10,150}|[a-z0-9][a-z0-9+/]{11,}={0,3}`), `password = "correct-horse-battery"`},
}

// Each rule is taken by both engines, finds what it is for, and finds what Go's regexp finds.
func TestPublicRules(t *testing.T) {
	var list []sensitive.Pattern
	var exprs []string
	text := "nothing here\n"
	for _, r := range rules {
		x, err := sensitive.Compile(sensitive.Pattern{Regex: r.regex})
		if err != nil {
			t.Errorf("%s %v", r.name, err)
			continue
		}
		list, exprs = append(list, sensitive.Pattern{Name: r.name, Regex: r.regex}), append(exprs, r.regex)
		text += r.sample + "\nnothing here = 42\n"
		t.Logf("%s: %d to %d bytes, repeated up to %d times", r.name, x.Min, x.Max, x.Repeat)
	}
	if !raced {
		same(t, exprs, []byte(text))
	}
	for name, e := range engines(t, list) {
		found := map[int]int{}
		for i, r := range rules {
			x := e.Text()
			_, _ = x.Write([]byte(r.sample + "\n"))
			got, err := x.Close()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range got {
				if f.Pattern == i {
					found[i] += f.Count
				}
			}
			if r.sample != "" && found[i] == 0 {
				t.Errorf("%s: %s does not find %q", name, r.name, r.sample)
			}
		}
		t.Log(e.Name())
	}
}

// What cannot be looked for is refused, and the reason names it.
func TestRefusedRules(t *testing.T) {
	for regex, why := range map[string]string{
		`foo(?=bar)`:   "must be RE2 syntax",
		`(?<!x)secret`: "must be RE2 syntax",
		`(['"])key\1`:  "must be RE2 syntax",
		`a++`:          "must be RE2 syntax",
		`(?>abc)`:      "must be RE2 syntax",
		`x\Z`:          "must be RE2 syntax",
		`a{1001}`:      "must be RE2 syntax",
		`.*`:           "matches the empty text",
		`(?:secret)?`:  "matches the empty text",
		`(?:.{1000}){1}(?:[\s\S]{900}){1}` + strings.Repeat(`.{1000}`, 8): "is too large",
		``: "must have 1 to",
	} {
		doc := fmt.Sprintf(`{"policy_data":{"dlp":{"patterns":[{"name":"x","regex":%q}]}}}`, regex)
		if strings.ContainsAny(regex, "\\") {
			doc = `{"policy_data":{"dlp":{"patterns":[{"name":"x","regex":"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(regex) + `"}]}}}`
		}
		_, err := policy.Decode([]byte(doc), policy.Options{Strict: true})
		if err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "dlp.patterns[0].regex") {
			t.Errorf("%s: %v, want %q", regex, err, why)
		}
	}
}
