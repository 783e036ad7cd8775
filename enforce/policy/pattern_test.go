package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestPatterns(t *testing.T) {
	d, err := Decode([]byte(`{"policy_data":{"dlp":{"sensitive_data_patterns":["secret"],"scan_timeout":"deny","quarantine_days":7,"patterns":[
		{"name":"cards","regex":"[0-9]{16}","validator":"luhn","min_count":3,"window":500},{"name":"keys","regex":"AKIA[A-Z0-9]{16}"}]}}}`), Options{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range d.DLP.Sensitive() {
		got = append(got, fmt.Sprintf("%s = %v, at least %d", p.Label(), p.Pattern, p.Least()))
	}
	want := []string{"dlp.sensitive_data_patterns[0] = secret, at least 1",
		"cards = cards: [0-9]{16} validator=luhn min_count=3 window=500, at least 3", "keys = keys: AKIA[A-Z0-9]{16}, at least 1"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q", got)
	}
	if d.DLP.ScanTimeout.V != ScanDeny || d.DLP.QuarantineDays.V != 7 {
		t.Errorf("%+v", d.DLP)
	}
	// A list is compared entry by entry.
	other, err := Decode([]byte(`{"policy_data":{"dlp":{"patterns":[{"name":"keys","regex":"AKIA[A-Z0-9]{16}"}]}}}`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(Diff(other, d)); !strings.Contains(text, "cards") || !strings.Contains(text, "quarantine_days") {
		t.Error(text)
	}
}

func TestPatternErrors(t *testing.T) {
	for in, want := range map[string]string{
		`"x"`:                           "dlp.patterns must be a list",
		`["x"]`:                         "dlp.patterns[0] must be an object",
		`[{"regex":"x"}]`:               "dlp.patterns[0] must have name",
		`[{"name":"x"}]`:                "dlp.patterns[0] must have regex",
		`[{"name":"","regex":"x"}]`:     "dlp.patterns[0].name must have 1 to",
		`[{"name":" a","regex":"x"}]`:   "dlp.patterns[0].name must have no control characters",
		`[{"name":"a\tb","regex":"x"}]`: "dlp.patterns[0].name must have no control characters",
		`[{"name":"a","regex":"x"},{"name":"a","regex":"y"}]`:           "dlp.patterns[1].name must be another",
		`[{"name":"` + strings.Repeat("n", 65) + `","regex":"x"}]`:      "dlp.patterns[0].name must have at most 64 bytes",
		`[{"name":"a","regex":"("}]`:                                    "dlp.patterns[0].regex must be RE2 syntax",
		`[{"name":"a","regex":"x","validator":"lune"}]`:                 "dlp.patterns[0].validator must be one of au_tfn",
		`[{"name":"a","regex":"x","min_count":0}]`:                      "dlp.patterns[0].min_count must be a whole number from 1 to 1000",
		`[{"name":"a","regex":"x","window":9999999}]`:                   "dlp.patterns[0].window must be a whole number from 1 to 1048576",
		`[{"name":"a","regex":"` + strings.Repeat(`\\pL`, 2001) + `"}]`: "dlp.patterns must have at most 2000 classes",
		`[{"name":"a","regex":"x","flags":"i"}]`:                        "dlp.patterns[0].flags is not a field here",
		`[` + strings.Repeat(`{"name":"a","regex":"x"},`, 1000) + `{}]`: "dlp.patterns must have at most 1000 entries",
	} {
		_, err := Decode([]byte(`{"policy_data":{"dlp":{"patterns":`+in+`}}}`), Options{})
		var errs Errors
		if !errors.As(err, &errs) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %s", in, err, want)
		}
	}
}

// A document with more classes than may be had from now on is refused by a server, and read by a device that has it already.
func TestManyClasses(t *testing.T) {
	one := strings.Repeat(`\\pL`, 1000)
	doc := []byte(`{"policy_data":{"dlp":{"sensitive_data_patterns":["` + one + `","` + one + `","` + one + `"]}}}`)
	if _, err := Decode(doc, Options{Strict: true}); err == nil || !strings.Contains(err.Error(), "dlp.sensitive_data_patterns must have at most 2000 classes") {
		t.Error(err)
	}
	if d, err := Decode(doc, Options{}); err != nil || len(d.DLP.Patterns.V) != 3 {
		t.Error(err)
	}
}

// What a server is sent is decoded and looked at, at its limits, in a time that a request may take.
func BenchmarkPatternsAtTheirLimits(b *testing.B) {
	for what, regex := range map[string]string{"letters": strings.Repeat(`\pL+`, 9), "long": strings.Repeat(".{1000}", 500),
		"folded": strings.Repeat(`(?i)[\x{80}-\x{1FFFF}]`, 9), "plain": strings.Repeat("x", 4000), "alternatives": strings.Repeat("ab*|", 800) + "c"} {
		list := make([]string, 200)
		for i := range list {
			list[i] = regex
		}
		text, _ := json.Marshal(list)
		b.Run(what, func(b *testing.B) {
			for b.Loop() {
				d, err := Decode([]byte(`{"policy_data":{"dlp":{"sensitive_data_patterns":`+string(text)+`}}}`), Options{})
				if err != nil {
					b.Fatal(err)
				}
				Warnings(d, "")
			}
		})
	}
}
