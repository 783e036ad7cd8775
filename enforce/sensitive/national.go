package sensitive

import "strings"

// ibanLengths are those of the registry of ISO 13616.
var ibanLengths = map[string]int{
	"AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29, "BY": 28, "CH": 21, "CR": 22,
	"CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22,
	"GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30,
	"KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20,
	"MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22,
	"RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26,
	"UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}

func iban(s string) bool {
	if len(s) < 15 || ibanLengths[s[:2]] != len(s) || !digits(s[2:4], 2) {
		return false
	}
	n := 0
	for _, c := range []byte(s[4:] + s[:4]) {
		if c >= 'A' {
			n = (n*100 + int(c-'A') + 10) % 97
		} else {
			n = (n*10 + int(c-'0')) % 97
		}
	}
	return n == 1
}

// ssn: no area 000, 666 or from 900 on, no group 00, no serial 0000; and not the two that were printed in advertisements.
func ssn(s string) bool {
	return digits(s, 9) && s[:3] != "000" && s[:3] != "666" && s[0] != '9' && s[3:5] != "00" && s[5:] != "0000" &&
		s != "078051120" && s != "219099999"
}

func nhs(s string) bool {
	if !digits(s, 10) || same(s) {
		return false
	}
	check := 11 - weighted(s, 10, 9, 8, 7, 6, 5, 4, 3, 2)%11
	return check != 10 && check%11 == int(s[9]-'0')
}

func nino(s string) bool {
	if len(s) != 9 || !digits(s[2:8], 6) || strings.ContainsAny(s[:2], "0123456789DFIQUV") || s[1] == 'O' || s[8] < 'A' || s[8] > 'D' {
		return false
	}
	switch s[:2] {
	case "BG", "GB", "KN", "NK", "NT", "TN", "ZZ":
		return false
	}
	return true
}

// germanTax: ISO 7064, MOD 11,10; among the first ten digits one occurs twice or three times, and the others once at most.
func germanTax(s string) bool {
	if !digits(s, 11) || s[0] == '0' {
		return false
	}
	var times [10]int
	product := 10
	for i := range 10 {
		d := int(s[i] - '0')
		times[d]++
		sum := (d + product) % 10
		if sum == 0 {
			sum = 10
		}
		product = sum * 2 % 11
	}
	more := 0
	for _, n := range times {
		if n > 3 {
			return false
		}
		if n > 1 {
			more++
		}
	}
	return more == 1 && (11-product)%10 == int(s[10]-'0')
}

// germanSocial: area, day of birth, initial as two digits, serial, check digit; digit sums of products (VKVV § 4).
func germanSocial(s string) bool {
	if len(s) != 12 || !digits(s[:8], 8) || s[8] < 'A' || s[8] > 'Z' || !digits(s[9:], 3) {
		return false
	}
	d, m := number(s[2:4]), number(s[4:6])
	if d > 50 {
		d -= 50 // a later issue for the same day
	}
	if m != 0 && !day(m, d) {
		return false
	}
	letter := int(s[8]-'A') + 1
	all := s[:8] + string(rune('0'+letter/10)) + string(rune('0'+letter%10)) + s[9:11]
	sum := 0
	for i, w := range []int{2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1} {
		p := int(all[i]-'0') * w
		sum += p/10 + p%10
	}
	return sum%10 == int(s[11]-'0')
}

// nir: 97 minus the rest of the first thirteen, in which 2A and 2B of Corsica are 19 and 18.
func nir(s string) bool {
	if len(s) != 15 || strings.IndexByte("123478", s[0]) < 0 {
		return false
	}
	body := s[:13]
	switch body[5:7] {
	case "2A":
		body = body[:5] + "19" + body[7:]
	case "2B":
		body = body[:5] + "18" + body[7:]
	}
	if !digits(body, 13) || !digits(s[13:], 2) {
		return false
	}
	month := number(body[3:5])
	return (month >= 1 && month <= 12 || month >= 20) && 97-rest(body, 97) == number(s[13:])
}

func dni(s string) bool {
	if len(s) != 9 {
		return false
	}
	if at := strings.IndexByte("XYZ", s[0]); at >= 0 {
		s = string(rune('0'+at)) + s[1:]
	}
	return digits(s[:8], 8) && "TRWAGMYFPDXBNJZSQVHLCKE"[number(s[:8])%23] == s[8]
}

// fiscal: odd places have values of their own; digits may be letters where two people would have the same.
func fiscal(s string) bool {
	const shape = "AAAAAA00A00A000A" // letters and digits, the latter perhaps as one of LMNPQRSTUV
	odd := []int{1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23}
	if len(s) != len(shape) {
		return false
	}
	sum := 0
	for i := range len(s) {
		letter := s[i] >= 'A'
		if shape[i] == 'A' && !letter || shape[i] == '0' && letter && strings.IndexByte("LMNPQRSTUV", s[i]) < 0 {
			return false
		}
		if i == len(s)-1 {
			break
		}
		v := int(s[i] - '0')
		if letter {
			v = int(s[i] - 'A')
		}
		if i%2 == 0 {
			v = odd[v]
		}
		sum += v
	}
	return strings.IndexByte("ABCDEHLMPRST", s[8]) >= 0 && byte('A'+sum%26) == s[15]
}

func bsn(s string) bool {
	if len(s) == 8 {
		s = "0" + s
	}
	return digits(s, 9) && !same(s) && weighted(s, 9, 8, 7, 6, 5, 4, 3, 2, -1)%11 == 0
}

// belgian: 97 minus the rest of the first nine; with a 2 before them for those born from 2000 on.
func belgian(s string) bool {
	if !digits(s, 11) || number(s[2:4])%20 > 12 {
		return false
	}
	check := number(s[9:])
	return 97-rest(s[:9], 97) == check || 97-rest("2"+s[:9], 97) == check
}

// pesel: the month has the century in it.
func pesel(s string) bool {
	return digits(s, 11) && day(number(s[2:4])%20, number(s[4:6])) && weighted(s, 1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)%10 == 0
}

// swedish takes ten digits; a coordination number has 60 added to its day.
func swedish(s string) bool {
	return digits(s, 10) && day(number(s[2:4]), number(s[4:6])%60) && luhn(s)
}

// finnish: the sign of the century is a hyphen, a plus or a letter; the first two are gone as separators.
func finnish(s string) bool {
	if len(s) == 11 && strings.IndexByte("ABCDEFYXWVU", s[6]) >= 0 {
		s = s[:6] + s[7:]
	}
	return len(s) == 10 && digits(s[:9], 9) && day(number(s[2:4]), number(s[:2])) &&
		"0123456789ABCDEFHJKLMNPRSTUVWXY"[number(s[:9])%31] == s[9]
}

func cpf(s string) bool {
	if !digits(s, 11) || same(s) {
		return false
	}
	first := weighted(s, 10, 9, 8, 7, 6, 5, 4, 3, 2) * 10 % 11 % 10
	second := weighted(s, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2) * 10 % 11 % 10
	return first == int(s[9]-'0') && second == int(s[10]-'0')
}

// verhoeff is the check digit in the dihedral group of order ten.
func verhoeff(s string) bool {
	mul := [10]string{"0123456789", "1234067895", "2340178956", "3401289567", "4012395678", "5987604321", "6598710432", "7659821043", "8765932104", "9876543210"}
	turn := [8]string{"0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258"}
	c := byte('0')
	for i := range len(s) {
		c = mul[c-'0'][turn[i%8][s[len(s)-1-i]-'0']-'0']
	}
	return c == '0'
}

// chinese is GB 11643: ISO 7064, MOD 11-2.
func chinese(s string) bool {
	if len(s) != 18 || !digits(s[:17], 17) || s[0] == '0' || !day(number(s[10:12]), number(s[12:14])) {
		return false
	}
	return "10X98765432"[weighted(s, 7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)%11] == s[17]
}

func tfn(s string) bool {
	return digits(s, 9) && !same(s) && weighted(s, 1, 4, 3, 7, 5, 8, 6, 9, 10)%11 == 0
}
