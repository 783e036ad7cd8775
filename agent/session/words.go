package session

import (
	"strings"

	"github.com/warderd/warder/enforce"
)

// Words are what is said to people, in one language.
type Words struct {
	title string
	about string // before the subject
	free  string // what follows from it
	rules map[enforce.Setting]string
	other string // of a setting that these words do not know
}

// Notice is a notice in these words.
func (w *Words) Notice(n Notice) (title, body string) {
	rule := w.rules[n.Setting]
	if rule == "" {
		rule = w.other + string(n.Setting)
	}
	lines := []string{rule}
	if n.Subject != "" {
		lines = append(lines, w.about+n.Subject)
	}
	return w.title, strings.Join(append(lines, w.free), "\n")
}

// Language returns the words for a locale such as "de_AT.UTF-8" (setlocale(3)); English if there are none for it.
func Language(locale string) Words {
	word, _, _ := strings.Cut(locale, ".")
	word, _, _ = strings.Cut(word, "@")
	word, _, _ = strings.Cut(word, "_")
	if w, ok := languages[strings.ToLower(word)]; ok {
		return w
	}
	return languages["en"]
}

// Locale is the locale for messages: the first of these variables that is set (locale(7)).
func Locale(env func(string) string) string {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if v := env(name); v != "" {
			return v
		}
	}
	return ""
}

// languages are the words by language (ISO 639-1).
var languages = map[string]Words{
	"en": {
		title: "A rule of your organization",
		about: "This is about: ",
		free:  "Nothing is blocked now. Your organization is told of it.",
		other: "Your organization has a rule about this: ",
		rules: map[enforce.Setting]string{
			"usb.allowed":                      "This USB device is not allowed on this computer.",
			"usb.whitelist":                    "This USB device is not on your organization's list.",
			"usb.allowed_classes":              "This kind of USB device is not allowed on this computer.",
			"usb.audit_only":                   "This USB device is not allowed on this computer.",
			"storage.encryption_required":      "The disks of this computer must be encrypted, and one of them is not.",
			"storage.external_storage_allowed": "USB sticks, memory cards and other external disks are not allowed on this computer.",
			"storage.cloud_sync_allowed":       "Programs that copy files to a cloud are not allowed on this computer.",
			"storage.max_file_size_mb":         "Files on external disks may not be that large.",
			"storage.event_paths":              "Your organization decides how files are named in its reports.",
			"network.vpn_required":             "This computer must be connected to your organization's VPN, and is not.",
			"network.vpn_always_on":            "This computer must be connected to your organization's VPN at all times, and is not.",
			"network.allowed_domains":          "This place in the network is not on your organization's list.",
			"network.blocked_domains":          "Your organization does not allow this place in the network.",
			"network.allowed_lists":            "This place in the network is not on your organization's list.",
			"network.blocked_lists":            "Your organization does not allow this place in the network.",
			"network.split_tunnel":             "All traffic must go through your organization's VPN, and some does not.",
			"network.vpn":                      "This computer is not connected to your organization's VPN as it should be.",
			"dlp.clipboard_sharing":            "Copying between work and private programs is not allowed.",
			"dlp.clipboard_direction":          "Copying from here to there is not allowed.",
			"dlp.screenshot_allowed":           "Screenshots are not allowed on this computer.",
			"dlp.print_allowed":                "Printing is not allowed on this computer.",
			"dlp.sensitive_data_patterns":      "This is sensitive data that may not leave this computer.",
			"dlp.patterns":                     "This has data in it that may not leave this computer.",
			"dlp.scan_timeout":                 "This could not be checked for sensitive data in time.",
			"dlp.quarantine_days":              "Files with sensitive data are kept by your organization for a while.",
			"dlp.zones":                        "Your organization decides which programs are for work.",
		},
	},
	"de": {
		title: "Eine Regel Ihrer Organisation",
		about: "Es geht um: ",
		free:  "Im Moment wird nichts gesperrt. Ihre Organisation erfährt davon.",
		other: "Dazu gibt es eine Regel Ihrer Organisation: ",
		rules: map[enforce.Setting]string{
			"usb.allowed":                      "Dieses USB-Gerät ist an diesem Computer nicht erlaubt.",
			"usb.whitelist":                    "Dieses USB-Gerät steht nicht auf der Liste Ihrer Organisation.",
			"usb.allowed_classes":              "USB-Geräte dieser Art sind an diesem Computer nicht erlaubt.",
			"usb.audit_only":                   "Dieses USB-Gerät ist an diesem Computer nicht erlaubt.",
			"storage.encryption_required":      "Die Laufwerke dieses Computers müssen verschlüsselt sein, und eines ist es nicht.",
			"storage.external_storage_allowed": "USB-Sticks, Speicherkarten und andere externe Laufwerke sind an diesem Computer nicht erlaubt.",
			"storage.cloud_sync_allowed":       "Programme, die Dateien in eine Cloud kopieren, sind auf diesem Computer nicht erlaubt.",
			"storage.max_file_size_mb":         "Dateien auf externen Laufwerken dürfen nicht so groß sein.",
			"storage.event_paths":              "Ihre Organisation legt fest, wie Dateien in ihren Berichten genannt werden.",
			"network.vpn_required":             "Dieser Computer muss mit dem VPN Ihrer Organisation verbunden sein, und ist es nicht.",
			"network.vpn_always_on":            "Dieser Computer muss immer mit dem VPN Ihrer Organisation verbunden sein, und ist es nicht.",
			"network.allowed_domains":          "Dieses Ziel im Netz steht nicht auf der Liste Ihrer Organisation.",
			"network.blocked_domains":          "Ihre Organisation erlaubt dieses Ziel im Netz nicht.",
			"network.allowed_lists":            "Dieses Ziel im Netz steht nicht auf der Liste Ihrer Organisation.",
			"network.blocked_lists":            "Ihre Organisation erlaubt dieses Ziel im Netz nicht.",
			"network.split_tunnel":             "Aller Verkehr muss durch das VPN Ihrer Organisation gehen, und ein Teil geht daran vorbei.",
			"network.vpn":                      "Dieser Computer ist nicht so mit dem VPN Ihrer Organisation verbunden, wie er sein soll.",
			"dlp.clipboard_sharing":            "Kopieren zwischen dienstlichen und privaten Programmen ist nicht erlaubt.",
			"dlp.clipboard_direction":          "Kopieren in dieser Richtung ist nicht erlaubt.",
			"dlp.screenshot_allowed":           "Bildschirmfotos sind auf diesem Computer nicht erlaubt.",
			"dlp.print_allowed":                "Drucken ist auf diesem Computer nicht erlaubt.",
			"dlp.sensitive_data_patterns":      "Das sind schützenswerte Daten, die diesen Computer nicht verlassen dürfen.",
			"dlp.patterns":                     "Darin sind Daten, die diesen Computer nicht verlassen dürfen.",
			"dlp.scan_timeout":                 "Dies konnte nicht rechtzeitig auf schützenswerte Daten geprüft werden.",
			"dlp.quarantine_days":              "Dateien mit schützenswerten Daten werden von Ihrer Organisation eine Zeit lang aufbewahrt.",
			"dlp.zones":                        "Ihre Organisation legt fest, welche Programme dienstlich sind.",
		},
	},
}
