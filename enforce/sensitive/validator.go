package sensitive

import (
	"maps"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"
)

// A validator says whether a text that has the shape of a number can be one: by its check digits, or by numbers that are never given
// out. It sees a match, or its first group if the expression has one, without what people write between digits, in upper case.
type validator struct {
	doc  string
	must func(string) bool
}

// okay reports whether a match passes; nil if there is no validator.
func (v validator) okay() func([]byte) bool {
	if v.must == nil {
		return nil
	}
	return func(match []byte) bool {
		s := Bare(match)
		return len(s) > 0 && len(s) <= maxNumber && v.must(s)
	}
}

// validators are by the names that policies use: a country (ISO 3166) and what its people call the number.
var validators = map[string]validator{
	"luhn":             {"payment cards, and other numbers with a Luhn check digit (ISO/IEC 7812-1): 8 to 19 digits, not all the same", card},
	"iban":             {"bank accounts (ISO 13616): mod 97, and the length of the country", iban},
	"us_ssn":           {"United States, Social Security number: areas, groups and serials that are given out", ssn},
	"ca_sin":           {"Canada, Social Insurance Number", func(s string) bool { return digits(s, 9) && s[0] != '0' && s[0] != '8' && luhn(s) }},
	"gb_nhs":           {"United Kingdom, NHS number", nhs},
	"gb_nino":          {"United Kingdom, National Insurance number: prefixes that are given out", nino},
	"de_tax_id":        {"Germany, Steuer-Identifikationsnummer", germanTax},
	"de_social":        {"Germany, Sozialversicherungsnummer", germanSocial},
	"fr_nir":           {"France, numéro de sécurité sociale", nir},
	"es_dni":           {"Spain, DNI and NIE", dni},
	"it_fiscal":        {"Italy, codice fiscale of a person", fiscal},
	"nl_bsn":           {"Netherlands, burgerservicenummer", bsn},
	"be_national":      {"Belgium, national register number", belgian},
	"pl_pesel":         {"Poland, PESEL", pesel},
	"se_personnummer":  {"Sweden, personnummer", func(s string) bool { return len(s) == 12 && swedish(s[2:]) || swedish(s) }},
	"fi_henkilotunnus": {"Finland, henkilötunnus", finnish},
	"ch_ahv":           {"Switzerland, AHV number", func(s string) bool { return digits(s, 13) && s[:3] == "756" && ean(s) }},
	"br_cpf":           {"Brazil, CPF", cpf},
	"in_aadhaar":       {"India, Aadhaar number", func(s string) bool { return digits(s, 12) && s[0] > '1' && verhoeff(s) }},
	"cn_resident":      {"China, resident identity number", chinese},
	"au_tfn":           {"Australia, tax file number", tfn},
}

// Validators lists the names, in order.
func Validators() []string { return slices.Sorted(maps.Keys(validators)) }

// ValidatorDoc says what one checks.
func ValidatorDoc(name string) string { return validators[name].doc }

// maxNumber is how many digits and letters a number has at most.
const maxNumber = 40

// Bare is a text without spaces, line ends, dashes and other punctuation, with letters of ASCII in upper case: the same for a number in
// all the ways in which people write it.
func Bare(b []byte) string {
	out := make([]byte, 0, min(len(b), 64))
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case r >= 'a' && r <= 'z':
			out = append(out, byte(r-'a'+'A'))
		case r >= '0' && r <= '9', r >= 'A' && r <= 'Z', r >= utf8.RuneSelf && !unicode.IsSpace(r) && !unicode.IsPunct(r):
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return string(out)
}

// digits reports whether a text has exactly n digits and nothing else.
func digits(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// number is the value of digits.
func number(s string) (n int) {
	for i := range len(s) {
		n = n*10 + int(s[i]-'0')
	}
	return n
}

// rest is the remainder of a number of any length.
func rest(s string, by int) (n int) {
	for i := range len(s) {
		n = (n*10 + int(s[i]-'0')) % by
	}
	return n
}

// weighted is the sum of digits, each with its weight.
func weighted(s string, weights ...int) (n int) {
	for i, w := range weights {
		n += int(s[i]-'0') * w
	}
	return n
}

// same reports whether all characters are the same.
func same(s string) bool {
	for i := range len(s) {
		if s[i] != s[0] {
			return false
		}
	}
	return true
}

// day reports whether there is such a day in a year that may be a leap year.
func day(month, day int) bool {
	if month < 1 || month > 12 || day < 1 {
		return false
	}
	return day <= time.Date(2000, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

func card(s string) bool {
	return len(s) >= 8 && len(s) <= 19 && digits(s, len(s)) && !same(s) && luhn(s)
}

// luhn is ISO/IEC 7812-1, annex B.
func luhn(s string) bool {
	sum := 0
	for i := range len(s) {
		d := int(s[len(s)-1-i] - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

// ean is the check digit of GS1.
func ean(s string) bool {
	sum := 0
	for i := range len(s) {
		sum += int(s[len(s)-1-i]-'0') * (1 + 2*(i%2))
	}
	return sum%10 == 0
}

// grouped reports whether digits are written as on a card: 16 in fours (19 with three more), 15 and 14 as 4-6-5 and 4-6-4, or in one.
func grouped(b []byte) bool {
	var groups []byte
	n := 0
	for i, c := range b {
		if c >= '0' && c <= '9' {
			n++
		}
		if n > 0 && (i == len(b)-1 || c < '0' || c > '9') {
			if n > 19 || len(groups) == 5 {
				return false
			}
			groups, n = append(groups, byte('a'+n)), 0
		}
	}
	switch string(groups) {
	case "eeee", "eeeed", "egf", "ege":
		return true
	}
	return len(groups) == 1 && groups[0] >= 'a'+12
}
