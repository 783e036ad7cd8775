package sensitive

import (
	"errors"
	"regexp"
	"regexp/syntax"
	"strings"
	"testing"
)

func TestValidators(t *testing.T) {
	// Numbers that documents of their issuers, or libraries that check them, give as examples.
	good := map[string][]string{
		"luhn":             {"4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "6011111111111117"},
		"iban":             {"DE89 3704 0044 0532 0130 00", "gb82west12345698765432", "FR14 2004 1010 0505 0001 3M02 606", "NO93 8601 1117 947"},
		"us_ssn":           {"123-45-6789", "899 99 9999"},
		"ca_sin":           {"123 456 782"},
		"gb_nhs":           {"943 476 5919"},
		"gb_nino":          {"AB 12 34 56 C"},
		"de_tax_id":        {"65929970489", "26 954 371 827", "86095742719"},
		"de_social":        {"15 070649 C 103", "65170839J003"},
		"fr_nir":           {"2 55 08 14 168 025 38"},
		"es_dni":           {"12345678Z", "X1234567L"},
		"it_fiscal":        {"RSSMRA85T10A562S"},
		"nl_bsn":           {"111222333", "1234.56.782"},
		"be_national":      {"85.07.30-033 28", "17 07 30 033 84"},
		"pl_pesel":         {"44051401359"},
		"se_personnummer":  {"880320-0016", "19880320-0016"},
		"fi_henkilotunnus": {"131052-308T", "311280-888Y", "131052A308T"},
		"ch_ahv":           {"756.9217.0769.85"},
		"br_cpf":           {"390.533.447-05"},
		"in_aadhaar":       {"2341 2341 2346"},
		"cn_resident":      {"360426199101010071", "11010519491231002x"},
		"au_tfn":           {"123 456 782"},
	}
	bad := map[string][]string{
		"luhn":            {"4111 1111 1111 1112", "0000 0000 0000 0000", "42", "4111 1111 1111 111x", strings.Repeat("0", 41), ""},
		"iban":            {"DE89 3704 0044 0532 0130 01", "XX82WEST12345698765432", "DE89", ""},
		"us_ssn":          {"000-45-6789", "666-45-6789", "900-45-6789", "123-00-6789", "123-45-0000", "078-05-1120"},
		"gb_nino":         {"QQ123456C", "AO123456C", "AB123456E", "GB123456A"},
		"gb_nhs":          {"0000000000", "9434765918"},
		"de_tax_id":       {"02345678901", "12345678901", "11111111111"},
		"pl_pesel":        {"44051401358", "44991401359"},
		"nl_bsn":          {"000000000", "111222334"},
		"br_cpf":          {"111.111.111-11"},
		"cn_resident":     {"360426199113010071"},
		"se_personnummer": {"880332-0016"},
		"ch_ahv":          {"757.9217.0769.85"},
	}
	for _, name := range Validators() {
		if ValidatorDoc(name) == "" || len(good[name]) == 0 {
			t.Errorf("%s has no description, or nothing shows it", name)
		}
		ok := validators[name].okay()
		for _, s := range good[name] {
			if !ok([]byte(s)) {
				t.Errorf("%s refuses %q", name, s)
			}
			// A check digit is one: no number with another digit in its place passes.
			last := strings.LastIndexAny(s, "0123456789")
			if name == "us_ssn" || name == "gb_nino" || name == "it_fiscal" || name == "es_dni" || name == "fi_henkilotunnus" {
				continue // it is a letter, or there is none
			}
			for d := byte('0'); d <= '9'; d++ {
				if x := []byte(s); x[last] != d {
					x[last] = d
					if ok(x) {
						t.Errorf("%s takes %q and %q", name, s, x)
					}
				}
			}
		}
		for _, s := range bad[name] {
			if ok([]byte(s)) {
				t.Errorf("%s takes %q", name, s)
			}
		}
	}
}

// Whatever is not a number is refused, and nothing of it breaks a validator.
func FuzzValidators(f *testing.F) {
	for _, s := range []string{"", "1", "DE89370400440532013000", "RSSMRA85T10A562S", "é", "131052-308T", "A", "99999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, name := range Validators() {
			if validators[name].okay()([]byte(s)) && !strings.ContainsAny(s, "0123456789") {
				t.Errorf("%s takes %q", name, s)
			}
		}
	})
}

func TestBound(t *testing.T) {
	for _, x := range []struct {
		in, out     string
		repeat      int
		least, most int
	}{
		{`abc`, `abc`, 0, 3, 3},
		{`a+`, `a{1,1000}`, 1000, 1, 1000},
		{`a{3,}?`, `a{3,1000}?`, 1000, 3, 1000},
		{`(?:[A-Z]+ )*x`, `(?:[A-Z]{1,32} ){0,31}x`, 1000, 1, 31*33 + 1},
		{`(?:a{10}b*)+`, `(?:a{10}b{0,100}){1,10}`, 1000, 10, 1100},
		{`\d{3}-\d{4}`, `[0-9]{3}-[0-9]{4}`, 0, 8, 8},
		{`é|ab?`, `é|ab?`, 0, 1, 2},
		{`(?i:K)`, `(?i:K)`, 0, 1, 3},
		{`.`, `(?-s:.)`, 0, 1, 4},
	} {
		got, err := Bound(x.in)
		if err != nil {
			t.Errorf("%s: %v", x.in, err)
			continue
		}
		a, err := syntax.Parse(got.Text, syntax.Perl)
		if err != nil {
			t.Errorf("%s: %v", got.Text, err)
			continue
		}
		b, _ := syntax.Parse(x.out, syntax.Perl)
		if !a.Equal(b) || got.Repeat != x.repeat || got.Min != x.least || got.Max != x.most {
			t.Errorf("%s: %s, %d, %d to %d bytes; want %s, %d, %d to %d", x.in, got.Text, got.Repeat, got.Min, got.Max, x.out, x.repeat, x.least, x.most)
		}
	}
	for in, want := range map[string]error{
		`a*`: ErrEmpty, `\b`: ErrEmpty, `(?:.{1000}){1}.{1000}.{1000}.{1000}.{1000}.{1000}.{1000}.{1000}.{1000}`: ErrLarge,
		strings.Repeat(`\pL{100}`, 100): ErrLarge,
	} {
		if _, err := Compile(Pattern{Regex: in}); !errors.Is(err, want) {
			t.Errorf("%.30s: %v, want %v", in, err, want)
		}
	}
	if _, err := Compile(Pattern{Regex: "a", Validator: "pi"}); !errors.Is(err, ErrValidator) {
		t.Error(err)
	}
	// Eight times everything gets less each time.
	if x, err := Bound(strings.Repeat(".+", 20)); err != nil || x.Max > MaxWidth || x.Repeat >= MaxRepeat {
		t.Errorf("%d bytes, %d times, %v", x.Max, x.Repeat, err)
	}
}

// Whatever is bounded has its bounds, and RE2 syntax, and matches no more than before.
func FuzzBound(f *testing.F) {
	for _, s := range []string{`a+b*`, `(?:(?:a+)+)+`, `[^\x00-\x{10FFFF}]`, `(?i)ſ{3,}`, `(a|b*?)+$`, `\pN{2}`} {
		f.Add(s, "aab")
	}
	f.Fuzz(func(t *testing.T, expr, text string) {
		if len(expr) > 100 {
			return
		}
		x, err := Bound(expr)
		if err != nil {
			return
		}
		re, err := regexp.Compile(x.Text)
		if err != nil {
			t.Fatalf("%q became %q: %v", expr, x.Text, err)
		}
		for _, m := range re.FindAllString(strings.ToValidUTF8(text, "?"), -1) {
			if len(m) < x.Min || len(m) > x.Max {
				t.Fatalf("%q matches %q, which has %d bytes and not %d to %d", x.Text, m, len(m), x.Min, x.Max)
			}
		}
		if found, was := re.MatchString(text), regexp.MustCompile(expr).MatchString(text); found && !was {
			t.Fatalf("%q matches %q, and %q does not", x.Text, text, expr)
		}
		if again, err := Bound(x.Text); err != nil || again.Repeat != 0 {
			t.Fatalf("%q is not bounded: %+v, %v", x.Text, again, err)
		}
	})
}

// So many are looked for as there is room for together; the others have a reason.
func TestSelect(t *testing.T) {
	list := []Pattern{{Regex: "a*"}, {Regex: "secret"}}
	for range 40 {
		list = append(list, Pattern{Regex: `\pL{1,120}x`})
	}
	list = append(list, Pattern{Regex: "small"})
	taken, left := Select(list)
	if len(taken)+len(left) != len(list) || !errors.Is(left[0], ErrEmpty) || !errors.Is(left[41], ErrTogether) || taken[0] != 1 || taken[len(taken)-1] != len(list)-1 {
		t.Errorf("%v, %v", taken, left)
	}
}

func TestBare(t *testing.T) {
	for in, want := range map[string]string{"4111 1111-1111.1111\n": "4111111111111111", "de89\u00a03704": "DE893704", "(é_1)": "é1", "": "", "\xff1": "\xff1"} {
		if got := Bare([]byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestTally(t *testing.T) {
	p := Pattern{Regex: `\d+`, MinCount: 3, Window: 100, Validator: "luhn"}
	n := NewTally(&p)
	const card = "4111111111111111"
	for i, at := range []int64{0, 90, 1000, 1050, 1070} {
		n.Add(at+5, []byte("4111111111111112")) // does not count
		n.Add(at, []byte(card))
		if n.Found() != (i == 4) || n.Count() != i+1 {
			t.Fatalf("after %d: %v, %d", i+1, n.Found(), n.Count())
		}
	}
	q := Pattern{Regex: "a", MinCount: 2}
	n = NewTally(&q)
	for i := range 2 * MaxCount {
		if n.Full() != (i >= MaxCount) {
			t.Fatalf("full after %d: %v", i, n.Full())
		}
		n.Add(int64(i), []byte("a"))
	}
	if n.Count() != MaxCount || !n.Found() {
		t.Error(n.Count())
	}
	// Far apart, and counted to the end: it goes on being looked for.
	p.Validator, p.MinCount, p.Window = "", 2, 10
	n = NewTally(&p)
	for i := range 2 * MaxCount {
		n.Add(int64(i)*100, []byte("1"))
	}
	n.Add(2*MaxCount*100-95, []byte("1"))
	if n.Count() != MaxCount || !n.Found() || !n.Full() {
		t.Errorf("%d, %v, %v", n.Count(), n.Found(), n.Full())
	}
}
