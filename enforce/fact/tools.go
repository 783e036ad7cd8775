package fact

// Tools are the ones that dlp.screenshot_allowed is about: they take pictures of the screen, or record it. Names are those of Debian's
// packages where it has them, and otherwise those that the project installs. Ordinary words that people may give their own programs (peek,
// import, record) are not here, nor are programs that can do it beside other things (GIMP, FFmpeg, meeting clients); words that are known
// as these programs' names (grim, obs, shutter, spectacle) are. Debian 13's import is a link to a program that does many things.
var Tools = Apps{
	{ID: "gnome-shot", Name: "GNOME Screenshot", Programs: []string{"gnome-screenshot"}, Flatpak: []string{"org.gnome.Screenshot"}},
	{ID: "spectacle", Name: "Spectacle", Programs: []string{"spectacle"}, Flatpak: []string{"org.kde.spectacle"}},
	{ID: "flameshot", Name: "Flameshot", Programs: []string{"flameshot", "Flameshot-*"}, Flatpak: []string{"org.flameshot.Flameshot"}, Snap: []string{"flameshot"}},
	{ID: "ksnip", Name: "ksnip", Programs: []string{"ksnip", "ksnip-*"}, Flatpak: []string{"org.ksnip.ksnip"}, Snap: []string{"ksnip"}},
	{ID: "xfce", Name: "Xfce Screenshooter", Programs: []string{"xfce4-screenshooter"}},
	{ID: "mate", Name: "MATE Screenshot", Programs: []string{"mate-screenshot", "mate-panel-screenshot"}},
	{ID: "budgie", Name: "Budgie Screenshot", Programs: []string{"org.buddiesofbudgie.BudgieScr*"}},
	{ID: "cosmic", Name: "COSMIC Screenshot", Programs: []string{"cosmic-screenshot"}},
	{ID: "elementary", Name: "elementary Screenshot", Programs: []string{"io.elementary.screenshot"}, Flatpak: []string{"io.elementary.screenshot"}},
	{ID: "lxqt", Name: "ScreenGrab", Programs: []string{"screengrab"}},
	{ID: "deepin", Name: "Deepin Screenshot", Programs: []string{"deepin-screenshot", "deepin-screen-recorder"}},
	{ID: "shutter", Name: "Shutter", Programs: []string{"shutter"}, Snap: []string{"shutter"}},
	{ID: "scrot", Name: "scrot", Programs: []string{"scrot"}},
	{ID: "maim", Name: "maim", Programs: []string{"maim", "shotgun"}},
	{ID: "xwd", Name: "xwd", Programs: []string{"xwd"}},
	{ID: "import", Name: "ImageMagick's import", Programs: []string{"import-im6.q16", "import-im6.q16hdri"}},
	{ID: "grim", Name: "grim", Programs: []string{"grim", "grimshot", "grimblast", "hyprshot", "wayshot", "watershot", "shotman", "weston-screenshooter"}},
	{ID: "recorders", Name: "screen recorders", Programs: []string{"simplescreenrecorder", "vokoscreen", "vokoscreenNG", "kazam", "recordmydesktop", "gtk-recordmydesktop", "byzanz-record",
		"wf-recorder", "wl-screenrec", "gpu-screen-recorder", "kooha", "blue-recorder"}, Flatpak: []string{"io.github.seadve.Kooha", "com.dec05eba.gpu_screen_recorder", "sa.sy.bluerecorder"}},
	{ID: "obs", Name: "OBS Studio", Programs: []string{"obs"}, Flatpak: []string{"com.obsproject.Studio"}, Snap: []string{"obs-studio"}},
}
