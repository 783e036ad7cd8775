package fact

// DesktopFile is a part of a desktop whose settings an administrator's file decides.
type DesktopFile struct {
	ID   string `json:"id"`
	Name string `json:"name"` // for people
	// Taken says why the file is somebody else's, or cannot do it; "" if it can.
	Taken string `json:"taken,omitempty"`
}

// Desktops are what is known of settings of desktops.
type Desktops struct {
	Files []DesktopFile `json:"files"`
	// Pending are programs that run with the settings of before, for people: they read them when they start.
	Pending []string `json:"pending,omitempty"`
}

// NoScreenshots is the value of the resource that is a desktop's settings.
const NoScreenshots = "no screenshots"
