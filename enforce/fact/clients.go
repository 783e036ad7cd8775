package fact

import "strings"

// App is one program that is known, or a family of them.
type App struct {
	ID   string // in exceptions, events and the kernel; at most 15 bytes
	Name string // for people
	// Programs are the file names of its programs; with "*" at the end, the beginning of one. A program of another one, or one that
	// does other things as well, is not here.
	Programs []string
	// What starts it on a desktop without being asked. It is the user's, and stays.
	Units, Autostart []string
	// Flatpak and Snap are its names there.
	Flatpak, Snap []string
	// Domains are names that serve its synchronisation and nothing else: what a browser needs for the service's page, and what other
	// programs use, is not here. Many services have none.
	Domains []string
	// Folders are where it keeps what it copies. Clients that mount what they copy as a file system of their own have none: what is
	// written there is sent at once, and the kernel lets nobody but the user look at it.
	Folders []SyncFolder
	// Why says why it has no programs.
	Why string
}

// Apps are programs that one setting is about.
type Apps []App

// Clients are the ones that storage.cloud_sync_allowed is about: they copy files to a service on the internet. Names of programs and units are those of Debian's packages where it
// has them, and otherwise those that the vendor's own package installs; domains are from the vendors' lists for firewalls.
var Clients = Apps{
	{ID: "dropbox", Name: "Dropbox", Programs: []string{"dropbox", "dropboxd", "maestral", "maestral_qt"},
		Units: []string{"dropbox.service", "dropbox@.service", "maestral-daemon@.service"}, Autostart: []string{"dropbox.desktop", "maestral.desktop"}, Flatpak: []string{"com.dropbox.Client"},
		Domains: []string{"client.dropbox.com", "client-lb.dropbox.com", "block.dropbox.com"},
		Folders: []SyncFolder{{File: ".dropbox/info.json", Form: FolderJSON, Key: "path"}, {File: ".var/app/com.dropbox.Client/.dropbox/info.json", Form: FolderJSON, Key: "path"},
			{File: ".config/maestral/maestral.ini", Form: FolderINI, Key: "path"}}},
	{ID: "onedrive", Name: "OneDrive", Programs: []string{"onedrive", "OneDriveGUI*", "onedriver", "onedriver-launcher", "gvfsd-onedrive"},
		Units: []string{"onedrive.service", "onedrive@.service", "onedriver@.service"}, Autostart: []string{"OneDriveGUI.desktop"}, Snap: []string{"onedrive-client"},
		Domains: []string{"oneclient.sfx.ms"},
		Folders: []SyncFolder{{File: ".config/onedrive/config", Form: FolderINI, Key: "sync_dir", Usual: "OneDrive"}, {File: ".config/onedrive/refresh_token", Usual: "OneDrive"}}},
	{ID: "google-drive", Name: "Google Drive", Programs: []string{"google-drive-ocamlfuse", "gvfsd-google", "gdrive", "overgrive"},
		Autostart: []string{"overgrive.desktop"}},
	{ID: "nextcloud", Name: "Nextcloud", Programs: []string{"nextcloud", "nextcloudcmd", "Nextcloud-*"},
		Autostart: []string{"Nextcloud.desktop", "com.nextcloud.desktopclient.nextcloud.desktop"}, Flatpak: []string{"com.nextcloud.desktopclient.nextcloud"}, Snap: []string{"nextcloud-desktop-client"},
		Folders: []SyncFolder{{File: ".config/Nextcloud/nextcloud.cfg", Form: FolderINI, Key: "localPath"},
			{File: ".var/app/com.nextcloud.desktopclient.nextcloud/config/Nextcloud/nextcloud.cfg", Form: FolderINI, Key: "localPath"}}},
	{ID: "owncloud", Name: "ownCloud", Programs: []string{"owncloud", "owncloudcmd", "ownCloud-*"}, Autostart: []string{"ownCloud.desktop"},
		Folders: []SyncFolder{{File: ".config/ownCloud/owncloud.cfg", Form: FolderINI, Key: "localPath"}}},
	{ID: "mega", Name: "MEGA", Programs: []string{"megasync", "mega-cmd", "mega-cmd-server"},
		Autostart: []string{"megasync.desktop"}, Flatpak: []string{"nz.mega.MEGAsync"},
		Folders: []SyncFolder{{File: ".local/share/data/Mega Limited/MEGAsync/MEGAsync.cfg", Usual: "MEGA"}}},
	{ID: "pcloud", Name: "pCloud", Programs: []string{"pcloud", "pcloudcc"}, Autostart: []string{"pcloud.desktop"},
		Domains: []string{"binapi.pcloud.com", "bineapi.pcloud.com"}},
	{ID: "box", Name: "Box", Why: "Box has no client for Linux, and its names serve its page as well; rclone, which can reach it, is a client of its own"},
	{ID: "syncthing", Name: "Syncthing", Programs: []string{"syncthing", "syncthing-gtk", "syncthingtray*"},
		Units: []string{"syncthing.service", "syncthing@.service"}, Autostart: []string{"syncthing-start.desktop", "syncthing-gtk.desktop"},
		Flatpak: []string{"com.github.zocker_160.SyncThingy", "me.kozec.syncthingtk"}, Snap: []string{"syncthing"},
		Domains: []string{"discovery.syncthing.net", "discovery-v4.syncthing.net", "discovery-v6.syncthing.net", "discovery-lookup.syncthing.net",
			"discovery-announce-v4.syncthing.net", "discovery-announce-v6.syncthing.net"},
		Folders: []SyncFolder{{File: ".local/state/syncthing/config.xml", Form: FolderXML, Key: "path"}, {File: ".config/syncthing/config.xml", Form: FolderXML, Key: "path"},
			{File: ".var/app/com.github.zocker_160.SyncThingy/config/syncthing/config.xml", Form: FolderXML, Key: "path"}}},
	{ID: "rclone", Name: "rclone", Programs: []string{"rclone", "rclone-browser"}, Units: []string{"rclone.service", "rclone@.service"}, Snap: []string{"rclone"}},
	{ID: "insync", Name: "Insync", Programs: []string{"insync", "insync-headless"}, Autostart: []string{"insync.desktop"},
		Folders: []SyncFolder{{File: ".config/Insync/settings.db", Usual: "Insync"}}},
	{ID: "seafile", Name: "Seafile", Programs: []string{"seafile-applet", "seaf-daemon", "seaf-cli", "seadrive", "seadrive-gui"}, Autostart: []string{"seafile.desktop"}, Flatpak: []string{"com.seafile.Client"},
		Folders: []SyncFolder{{File: ".ccnet/seafile.ini", Usual: "Seafile"}}},
	{ID: "resilio", Name: "Resilio Sync", Programs: []string{"rslsync"}, Units: []string{"resilio-sync.service"}, Domains: []string{"config.resilio.com"}},
	{ID: "yandex-disk", Name: "Yandex Disk", Programs: []string{"yandex-disk"}, Autostart: []string{"yandex-disk.desktop"}, Domains: []string{"webdav.yandex.ru"},
		Folders: []SyncFolder{{File: ".config/yandex-disk/config.cfg", Form: FolderINI, Key: "dir", Usual: "Yandex.Disk"}}},
}

// ByID returns one by its ID.
func (a Apps) ByID(id string) (*App, bool) {
	for i := range a {
		if a[i].ID == id {
			return &a[i], true
		}
	}
	return nil, false
}

// ByProgram returns the one that has a program of that file name, and the name as the table has it: the end of a name of which only the
// beginning is there is somebody's own.
func (a Apps) ByProgram(file string) (app *App, program string, ok bool) {
	for i := range a {
		for _, p := range a[i].Programs {
			if start, more := strings.CutSuffix(p, "*"); p == file || more && strings.HasPrefix(file, start) {
				return &a[i], p, true
			}
		}
	}
	return nil, "", false
}

// maxComm is how much of the name of what a process runs the kernel keeps, in bytes.
const maxComm = 15

// ByComm is ByProgram for the name that the kernel has for a process, which it cuts.
func (a Apps) ByComm(name string) (app *App, program string, ok bool) {
	if app, program, ok = a.ByProgram(name); ok || len(name) < maxComm {
		return app, program, ok
	}
	for i := range a {
		for _, p := range a[i].Programs {
			if len(p) > maxComm && p[:maxComm] == name {
				return &a[i], p, true
			}
		}
	}
	return nil, "", false
}

// Running is one that runs.
type Running struct {
	App       string `json:"client"`  // as stored events call it, whatever it is
	Program   string `json:"program"` // as the table names it
	Processes int    `json:"processes"`
}

// The versions of the programs in the kernel that refuse them, as fact.MediaRefused counts them.
const (
	cloudPrograms = " (programs 2)"
	shotPrograms  = " (programs 1)"
)

const refusedApps = "cannot start: "

// ClientsRefused is the value of the resource that keeps sync clients from being started.
func ClientsRefused(ids []string) string { return refusedApps + strings.Join(ids, " ") + cloudPrograms }

// ParseClientsRefused reads it.
func ParseClientsRefused(s string) (ids []string, ok bool) { return refusedOf(s, cloudPrograms) }

// ToolsRefused is the value of the resource that keeps programs that take pictures of the screen from being started.
func ToolsRefused(ids []string) string { return refusedApps + strings.Join(ids, " ") + shotPrograms }

// ParseToolsRefused reads it.
func ParseToolsRefused(s string) (ids []string, ok bool) { return refusedOf(s, shotPrograms) }

func refusedOf(s, end string) (ids []string, ok bool) {
	s, a := strings.CutPrefix(s, refusedApps)
	s, b := strings.CutSuffix(s, end)
	return strings.Fields(s), a && b
}
